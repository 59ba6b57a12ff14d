// The first screen (figure 12a): each output alone, its quality and the yes/no questions.

// keys of the questions; "s" skips, "u" undoes, "i" shows the instructions
const QUESTION_KEYS = "abcdefghjklmnopqrtvwxyz";
const QUALITY = [1, 2, 3, 4, 5, 6, 7];

function eachScreen() {
  const place = S.at;
  const name = outputName(place);
  return el(
    "div",
    { class: "two" },
    reading(
      "Prompt",
      S.task.prompt,
      el("h2", { tabindex: "-1", class: "here" }, name + " of " + S.task.outputs.length),
      textBox(S.task.outputs[place], name),
    ),
    el(
      "form",
      { class: "asking", onsubmit: (event) => event.preventDefault() },
      qualityField(place),
      S.about.questions.length ? questionField(place) : null,
    ),
  );
}

function qualityField(place) {
  const choice = (value) =>
    el(
      "label",
      { class: "likert" },
      el("input", {
        type: "radio",
        name: "label-quality",
        value,
        checked: S.answer.quality[place] === value,
        onchange: () => setQuality(value),
      }),
      el("span", {}, String(value)),
    );
  return el(
    "fieldset",
    { class: "quality" },
    el("legend", {}, "Overall quality"),
    el("div", { class: "scale" }, QUALITY.map(choice)),
    el("div", { class: "ends" }, el("span", {}, "1 terrible"), el("span", {}, "7 excellent")),
  );
}

function questionField(place) {
  const choice = ({ key, text }, i) =>
    el(
      "label",
      { class: "question" },
      el("input", {
        type: "checkbox",
        value: key,
        checked: S.answer.flags[place].includes(key),
        onchange: () => toggleFlag(key),
      }),
      el("span", {}, text),
      el("kbd", { "aria-hidden": "true" }, QUESTION_KEYS[i] || ""),
    );
  return el(
    "fieldset",
    { class: "questions" },
    el("legend", {}, "Tick what is true of this output"),
    S.about.questions.map(choice),
  );
}

function setQuality(value) {
  change(() => (S.answer.quality[S.at] = value));
}

function toggleFlag(key) {
  change(() => {
    const flags = S.answer.flags[S.at];
    S.answer.flags[S.at] = flags.includes(key) ? flags.filter((k) => k !== key) : [...flags, key];
  });
}

function nextOutput() {
  if (S.answer.quality[S.at] === null)
    return say("Give a quality first: a number from 1 to 7.", true);
  const open = S.answer.quality.indexOf(null);
  // forward while there is one; then to what is still open
  if (S.at + 1 < S.task.outputs.length) return goTo("each", S.at + 1);
  if (open >= 0) return goTo("each", open);
  goTo(comparing());
}

function eachKeys(key) {
  const question = S.about.questions[QUESTION_KEYS.indexOf(key)];
  if (key >= "1" && key <= "7" && key.length === 1) setQuality(Number(key));
  else if (key === "Enter") nextOutput();
  else if (key === "ArrowRight" && S.at + 1 < S.task.outputs.length) goTo("each", S.at + 1);
  else if (key === "ArrowLeft" && S.at > 0) goTo("each", S.at - 1);
  else if (key.length === 1 && question) toggleFlag(question.key);
  else return false;
  return true;
}
