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

async function start() {
  themeToggle(document.getElementById("theme"));
  document.querySelectorAll("figure.table table").forEach(upgraded);
  const root = document.getElementById("samples");
  if (root) {
    const samples = await Samples.open();
    const browser = sampleBrowser(samples, root);
    const pairs = document.getElementById("pairs");
    if (pairs && samples.pairs.length) {
      pairs.hidden = false;
      pairView(samples, pairs, browser.show);
    }
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.target.closest("input, textarea, select, dialog")) return;
      event.preventDefault();
      browser.focusSearch();
    });
    await browser.ready;
  }
  document.documentElement.dataset.ready = "true";
}

start();
