"""Configuration that ships with evalkit: model presets and task suites, as YAML."""
