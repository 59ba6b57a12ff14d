// Demonstrations (section 3.2, appendix A.1): the answer to a prompt of the log, or a prompt and an
// answer of the labeler's own, plain, few-shot or user-based.

const FORMS = [
  ["plain", "Plain", "any task you can think of; be diverse"],
  ["few_shot", "Few-shot", "an instruction and examples of a query and its response"],
  ["user_based", "User-based", "a prompt for a use case that users asked for"],
];
const blankWriting = (task) => ({
  own: !task.prompt.length,
  form: "plain",
  prompt: "",
  useCase: "",
  instruction: "",
  pairs: [
    { query: "", response: "" },
    { query: "", response: "" },
  ],
  query: "",
  completion: "",
  oneText: false, // whether a few-shot prompt is `prompt` as a whole
});

function writeScreen() {
  const w = S.answer;
  return el(
    "div",
    { class: "two" },
    reading("Prompt from the log", S.task.prompt, shortList()),
    el(
      "form",
      { class: "writing", onsubmit: (event) => event.preventDefault() },
      el("h2", { tabindex: "-1", class: "here" }, "What you write"),
      S.task.prompt.length
        ? radios(
            "label-own",
            "For this item",
            [
              ["no", "Answer this prompt"],
              ["yes", "A prompt of my own instead"],
            ],
            w.own ? "yes" : "no",
            (value) => change(() => (w.own = value === "yes")),
          )
        : null,
      w.own ? ownPrompt(w) : null,
      area(
        "completion",
        w.own && w.form === "few_shot" ? "Response to the last query" : "Your answer",
        w,
        10,
      ),
    ),
  );
}

function ownPrompt(w) {
  return [
    radios("label-form", "Kind of prompt", FORMS.map(withShort), w.form, (value) =>
      change(() => (w.form = value)),
    ),
    w.form === "user_based" ? useCaseField(w) : null,
    ...(w.form === "few_shot" ? fewShot(w) : [area("prompt", "Your prompt", w, 5)]),
  ];
}

function fewShot(w) {
  if (w.oneText) return [area("prompt", "Your prompt, examples included", w, 10)];
  const pair = (one, i) =>
    el(
      "fieldset",
      { class: "example" },
      el("legend", {}, "Example " + (i + 1)),
      area("query", "Query " + (i + 1), one, 2),
      area("response", "Response " + (i + 1), one, 2),
      w.pairs.length > 1
        ? button("Remove example " + (i + 1), () => change(() => w.pairs.splice(i, 1)))
        : null,
    );
  return [
    area("instruction", "Instruction", w, 2),
    ...w.pairs.map(pair),
    button("Add an example", () => change(() => w.pairs.push({ query: "", response: "" }))),
    area("query", "Last query, which you answer", w, 2),
  ];
}

function useCaseField(w) {
  const cases = S.about.short.map((row) => row.use_case);
  return el(
    "label",
    { class: "area" },
    el("span", {}, "Use case"),
    el("input", {
      type: "text",
      value: w.useCase,
      list: "label-use-cases",
      maxlength: "200",
      oninput: (event) => type(() => (w.useCase = event.target.value)),
    }),
    el(
      "datalist",
      { id: "label-use-cases" },
      cases.map((name) => el("option", { value: spoken(name) })),
    ),
  );
}

// which use cases still need prompts of a kind, beside that kind
function withShort([form, words, more]) {
  const needed = S.about.short.filter((row) => row.write.includes(form.replace("_", "-")));
  const names = needed.map((row) => spoken(row.use_case));
  const rest = names.length > 5 ? ` and ${names.length - 4} more` : "";
  const some = rest ? names.slice(0, 4) : names;
  return [form, words, more, some.length ? `short: ${some.join(", ")}${rest}` : ""];
}

const spoken = (name) => name.replaceAll("_", " ");

// Which prompts are short (the coverage table of data_prep.demonstrations).
function shortList() {
  if (!S.about.short.length) return null;
  const row = ({ use_case, n, write }) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, spoken(use_case)),
      el("td", {}, String(n)),
      el("td", {}, write.join(", ")),
    );
  const head = ["Use case", "Written", "Short of"].map((words) =>
    el("th", { scope: "col" }, words),
  );
  return el(
    "details",
    { class: "short" },
    el("summary", {}, "Where prompts are short"),
    el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, S.about.short.map(row))),
  );
}

function radios(name, legend, choices, chosen, act) {
  const choice = ([value, words, more, needed]) =>
    el(
      "label",
      { class: "question" },
      el("input", {
        type: "radio",
        name,
        value,
        checked: value === chosen,
        onchange: () => act(value),
      }),
      el(
        "span",
        {},
        words,
        more ? el("small", {}, " – " + more) : "",
        needed ? el("small", { class: "needed" }, needed) : "",
      ),
    );
  return el("fieldset", { class: "questions" }, el("legend", {}, legend), choices.map(choice));
}

function area(key, words, target, rows) {
  const made = el("textarea", {
    rows,
    dir: "auto",
    spellcheck: "true",
    oninput: (event) => type(() => (target[key] = event.target.value)),
  });
  // not by markup: a leading line break would be lost
  made.value = target[key];
  return el("label", { class: "area" }, el("span", {}, words), made);
}

// Typing keeps the fields as they are: no step of undo for each letter, the browser has its own.
function type(set) {
  set();
  draft.keep(S.task, S.answer);
}

function fewShotPrompt(w) {
  const examples = w.pairs.map(({ query, response }) => `Query: ${query}\nResponse: ${response}`);
  return [w.instruction, ...examples, `Query: ${w.query}\nResponse:`].join("\n\n");
}

function missingWords(w) {
  if (!w.completion.trim()) return "The answer is still empty.";
  if (!w.own) return "";
  if (w.form === "user_based" && !w.useCase.trim()) return "Name the use case.";
  const inFields = w.form === "few_shot" && !w.oneText;
  if (!inFields) return w.prompt.trim() ? "" : "The prompt is still empty.";
  const texts = [w.instruction, w.query, ...w.pairs.flatMap((pair) => [pair.query, pair.response])];
  return texts.every((text) => text.trim())
    ? ""
    : "Fill the instruction, every example and the last query.";
}

function saveWriting() {
  const w = S.answer;
  const missing = missingWords(w);
  if (missing) return say(missing, true);
  const inFields = w.form === "few_shot" && !w.oneText;
  const prompt = !w.own ? null : inFields ? fewShotPrompt(w) : w.prompt;
  const kind = !w.own ? { request_form: "plain" } : { request_form: w.form };
  if (w.own && w.form === "user_based") kind.use_case = w.useCase.trim();
  save({ prompt, completion: w.completion, ...kind }, saveWriting);
}

// An earlier answer, to be changed: few-shot prompts come back as one text, and stay few-shot.
function writingOf(task) {
  const w = blankWriting(task);
  const earlier = task.previous;
  if (!earlier) return w;
  const own = typeof earlier.prompt === "string";
  return {
    ...w,
    own,
    form: own ? earlier.request_form : "plain",
    oneText: own && earlier.request_form === "few_shot",
    prompt: own ? earlier.prompt : "",
    useCase: earlier.use_case || "",
    completion: earlier.completion,
  };
}
