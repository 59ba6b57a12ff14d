const words = document.getElementById("words");
const temperature = document.getElementById("temperature");
const samples = [...document.querySelectorAll(".sample")];

function show() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const sample of samples) {
    for (const answers of sample.querySelectorAll(".answers")) {
      answers.hidden = temperature && answers.dataset.temperature !== temperature.value;
    }
    // what was asked and answered, not the names and scores around it
    const said = [...sample.querySelectorAll("[dir=auto]")].map((one) => one.textContent);
    const text = said.join("\n").toLowerCase();
    sample.hidden = !wanted.every((word) => text.includes(word));
    if (!sample.hidden) found += 1;
  }
  document.getElementById("found").textContent = `${found} of ${samples.length}`;
}

if (words) {
  words.addEventListener("input", show);
  if (temperature) temperature.addEventListener("change", show);
  show();
  // paper has no choices: everything is printed
  addEventListener("beforeprint", () => {
    for (const one of document.querySelectorAll("details")) one.open = true;
    for (const one of document.querySelectorAll(".sample, .answers")) one.hidden = false;
  });
  addEventListener("afterprint", show);
}
