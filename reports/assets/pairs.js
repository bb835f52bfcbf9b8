// Two models on the same samples. A click on a number shows its samples in the browser.

const KINDS = [
  ["both_right", "Both right", "both-right"],
  ["only_a", "Only A", "only-a"],
  ["only_b", "Only B", "only-b"],
  ["both_wrong", "Both wrong", "both-wrong"],
];

function pairView(samples, root, show) {
  const [choice] = root.querySelectorAll("select");
  samples.pairs.forEach((pair, k) => {
    const names = `${samples.models[pair.a]} ↔ ${samples.models[pair.b]}: ${pair.task}`;
    choice.append(el("option", { value: k }, oneLine(names)));
  });
  const box = root.querySelector(".pair");
  const open = () => {
    const pair = samples.pairs[choice.value];
    const table = pairTable(pair);
    box.replaceChildren(legend(samples, pair), table);
    upgraded(table, undefined, { maxHeight: "28rem" });
  };
  choice.onchange = open;
  box.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-kind]");
    if (!button) return;
    const pair = samples.pairs[choice.value];
    const task = samples.tasks.indexOf(pair.task);
    show({ model: pair.a, versus: pair.b, task, subset: button.dataset.subset, kind: button.dataset.kind });
  });
  open();
}

function legend(samples, pair) {
  const mean = pair.average === "macro" ? "subsets" : "samples";
  const lines = [
    el("p", {}, "A is ", bdi(samples.models[pair.a]), ", B is ", bdi(samples.models[pair.b]), "."),
    el(
      "p",
      {},
      `Difference: A − B in points, mean over ${mean}, with the 95 % interval of the differences from sample to ` +
        "sample. Where scores are graded, “only A” counts the samples that A scores higher. p-values of " +
        "single subsets are not adjusted for how many there are.",
    ),
  ];
  if (!pair.same_data) {
    lines.push(el("p", { className: "warning" }, "The two runs read different data; samples are matched by subset and id."));
  }
  return el("div", {}, ...lines);
}

function pairTable(pair) {
  const heads = ["Subset", "Samples", ...KINDS.map(([, label]) => label), "A − B [95 %]", "p"];
  const all = [pair.whole, ...pair.subsets];
  return el(
    "table",
    {},
    el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, ...(pair.subsets.length > 1 ? all : [pair.whole]).map(pairRow)),
  );
}

function pairRow(comparison) {
  const n = comparison.both_right + comparison.only_a + comparison.only_b + comparison.both_wrong;
  const name = comparison.subset === null ? el("strong", {}, "all") : bdi(comparison.subset);
  const difference = comparison.difference;
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, name),
    number(n),
    ...KINDS.map(([key, label, kind]) => counted(comparison, key, label, kind)),
    difference === null ? number(null) : number(difference.value, withInterval(difference)),
    difference === null ? number(null) : number(difference.p, shortP(difference.p)),
  );
}

function number(value, text = value === null ? "–" : value.toLocaleString("en")) {
  const cell = el("td", {}, text);
  if (value !== null) cell.dataset.value = value;
  return cell;
}

function counted(comparison, key, label, kind) {
  const count = comparison[key];
  if (!count) return number(0);
  const button = el("button", { type: "button", className: "link" }, count.toLocaleString("en"));
  button.ariaLabel = `${label}: show ${count} samples`;
  Object.assign(button.dataset, { kind, subset: comparison.subset ?? "" });
  const cell = el("td", {}, button);
  cell.dataset.value = count;
  return cell;
}

function withInterval({ value, ci95: [low, high] }) {
  const signed = (x) => (x < 0 ? "−" : "+") + percent(Math.abs(x));
  return `${signed(value)} [${signed(low)}, ${signed(high)}]`;
}

function shortP(p) {
  return p < 0.001 ? "< 0.001" : p.toFixed(3);
}
