// One sample: what was asked, what each model answered, and how that was judged.

function sampleDialog(samples, dialog, neighbour) {
  let shown = null;
  const body = dialog.querySelector(".detail");
  const open = async (row) => {
    shown = row;
    const detail = await samples.detail(row);
    if (shown !== row) return; // another was asked for meanwhile
    body.replaceChildren(...sections(samples, row, detail, open));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  };
  const step = async (by) => {
    const next = await neighbour(shown, by);
    if (next !== null) open(next);
  };
  dialog.querySelector("[data-step='-1']").onclick = () => step(-1);
  dialog.querySelector("[data-step='1']").onclick = () => step(1);
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") step(event.key === "ArrowLeft" ? -1 : 1);
  });
  return { open };
}

function sections(samples, row, detail, open) {
  return [
    heading(samples, row),
    byModel(samples, row, open),
    facts(samples, row, detail),
    detail.error && section("Error", longText(detail.error)),
    detail.options && section("Options", optionTable(samples, row, detail)),
    ...texted("Reasoning", detail.reasonings),
    ...texted("Completion", detail.completions),
    section("Prompt", ...prompt(detail)),
  ].filter(Boolean);
}

function heading(samples, row) {
  const task = samples.tasks[samples.task(row)];
  return el(
    "header",
    {},
    el("p", {}, bdi(task), " · ", bdi(samples.subset(row))),
    el("h2", { id: "detail-title" }, "Sample ", bdi(samples.id(row)), " ", mark(samples.rows, row)),
  );
}

function mark(rows, row) {
  const score = rows.correct[row];
  if (rows.flags[row] & ERROR) return badge("error", "error");
  if (score === null) return badge("none", "not judged");
  if (score === 0 || score === 1) return score ? badge("right", "right") : badge("wrong", "wrong");
  return badge(score >= RIGHT ? "right" : "wrong", percent(score));
}

function badge(className, text) {
  return el("span", { className: `badge ${className}` }, text);
}

/** What each model answered to the sample, where there are several. */
function byModel(samples, row, open) {
  const item = samples.rows.item[row];
  const others = samples.models.map((_, model) => samples.rowsOf(model)[item]).filter((other) => other >= 0);
  if (others.length < 2) return null;
  const lines = others.map((other) => {
    const button = el("button", { type: "button", ariaPressed: other === row }, bdi(samples.models[samples.rows.model[other]]));
    button.onclick = () => open(other);
    return el("li", {}, button, " ", mark(samples.rows, other), " ", bdi(samples.rows.prediction[other] ?? "–"));
  });
  return section("Models", el("ul", { className: "models" }, ...lines));
}

function facts(samples, row, detail) {
  const { rows } = samples;
  const lead = detail.lead;
  const entries = [
    ["Model", samples.models[rows.model[row]]],
    ["Target", detail.target ?? rows.target[row] ?? "not public"],
    ["Prediction", detail.prediction ?? rows.prediction[row] ?? "none could be extracted"],
    ["Metrics", Object.entries(detail.metrics ?? {}).map(([name, value]) => `${name} ${value}`).join(", ") || "none"],
    ["Class", detail.stratum],
    ["Ended by", detail.finish_reason],
    ["Prompt", rows.flags[row] & TRUNCATED ? "shortened from the left before the model saw it" : null],
    ["Leakage", lead && `published order ranks ${lead.rank}, gap ${lead.gap.toFixed(2)}, p ${shortP(lead.p)}, listed at a false-discovery rate of ${percent(lead.fdr, 0)} %`],
  ];
  const shown = entries.filter(([, text]) => text);
  return el("dl", {}, ...shown.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, valueOf(text))]));
}

function valueOf(text) {
  return text.includes("\n") || text.length > 200 ? longText(text) : bdi(text);
}

function optionTable(samples, row, detail) {
  const [prediction, target] = [samples.rows.prediction[row], samples.rows.target[row]];
  const finite = detail.options.map(([, logprob]) => (typeof logprob === "number" ? logprob : -Infinity));
  const top = Math.max(...finite);
  const weights = finite.map((logprob) => (top === -Infinity ? 0 : Math.exp(logprob - top)));
  const total = weights.reduce((sum, weight) => sum + weight, 0) || 1;
  const lines = detail.options.map(([label, logprob, tokens], k) => {
    const share = weights[k] / total;
    const bar = el("meter", { min: 0, max: 1, value: share, ariaLabel: `share of option ${label}` });
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, bdi(label), label === prediction ? badge("none", "predicted") : "", label === target ? badge("right", "target") : ""),
      el("td", {}, typeof logprob === "number" ? logprob.toFixed(3) : String(logprob)),
      el("td", {}, String(tokens ?? "–")),
      el("td", {}, bar, ` ${percent(share)} %`),
    );
  });
  const heads = ["Option", "Log-probability", "Tokens", "Share among the options"];
  return el(
    "div",
    { className: "scroll" },
    el(
      "table",
      { className: "options" },
      el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, ...lines),
    ),
  );
}

function texted(title, several) {
  return (several ?? []).map((text, k) => section(several.length > 1 ? `${title} ${k + 1}` : title, longText(text)));
}

function prompt(detail) {
  if (detail.prompt === undefined) {
    return [el("p", {}, "This run did not keep its prompts. Run it again with ", el("code", {}, "--log-prompts"), ".")];
  }
  if (!detail.beginning) return [longText(detail.prompt)];
  const summary = el("summary", {}, "How every prompt of this group begins (examples)");
  return [el("details", {}, summary, longText(detail.beginning)), longText(detail.prompt)];
}

function section(title, ...children) {
  return el("section", {}, el("h3", {}, title), ...children);
}
