// What happens when the page opens.

function themeToggle(button) {
  const root = document.documentElement;
  const dark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => (button.ariaPressed = dark());
  button.onclick = () => {
    root.dataset.theme = dark() ? "light" : "dark";
    label();
  };
  label();
}

/** Scores lead to the samples they rest on. */
function scoreLinks(samples, browser) {
  const linked = ({ dataset }) => dataset.model !== undefined && samples.tasks.includes(dataset.task);
  document.querySelectorAll("figure.table table").forEach((table) => upgraded(table, linked));
  document.getElementById("scores").addEventListener("click", (event) => {
    const button = event.target.closest("button[data-task]");
    if (!button) return;
    browser.show({ model: button.dataset.model, task: samples.tasks.indexOf(button.dataset.task) });
  });
}

function searchKey(browser) {
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.closest("input, textarea, select, dialog")) return;
    event.preventDefault();
    browser.focusSearch();
  });
}

async function start() {
  themeToggle(document.getElementById("theme"));
  if (document.getElementById("index")) {
    const samples = await Samples.open();
    const browser = sampleBrowser(samples, document.getElementById("samples"));
    scoreLinks(samples, browser);
    const pairs = document.getElementById("pairs");
    if (samples.pairs.length) pairView(samples, pairs, browser.show);
    searchKey(browser);
    await browser.ready;
  } else {
    document.querySelectorAll("figure.table table").forEach((table) => upgraded(table));
  }
  document.documentElement.dataset.ready = "true";
}

start();
