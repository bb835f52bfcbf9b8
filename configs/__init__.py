"""What ships with evalkit as YAML: model presets, task suites, layouts of tables and published numbers."""
