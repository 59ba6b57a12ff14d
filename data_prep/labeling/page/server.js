// What the server is asked. Nothing counts as saved before it has said so.

const LOST = "The server does not answer. Nothing is lost here: try again in a moment.";

// Gradio's `server` functions swallow errors, and then give nothing back.
async function ask(name, form = {}) {
  const answer = await server[name](form);
  if (answer && answer.error) throw refusal(answer.error);
  if (answer) return answer;
  throw new Error((await loggedOut()) ? LOGGED_OUT : LOST);
}

// a command says it after "error: "; a page, alone
const sentence = (words) => words[0].toUpperCase() + words.slice(1);

const refusal = (words) => Object.assign(new Error(sentence(words)), { refused: true });

const LOGGED_OUT =
  "You are logged out (the server was started anew). Load the page again and log in: what you " +
  "entered stays in this tab.";

async function loggedOut() {
  try {
    return (await fetch("gradio_api/login_check")).status === 401;
  } catch {
    return false;
  }
}

// A draft of this tab: a reload or a logout loses nothing that was entered. A demonstration may be
// an hour's work: another tab finds it, too, where nothing of the item has been saved.
const draft = {
  // another database has other texts under this number, another labeler another order
  key: (task) => JSON.stringify(["label-draft", S.about.database, S.about.labeler, task.item]),
  keep(task, answer) {
    try {
      sessionStorage.setItem(draft.key(task), JSON.stringify(answer));
      if (S.about.kind === "demonstrations")
        localStorage.setItem(draft.key(task), JSON.stringify(answer));
    } catch {
      // a browser without storage: the page works, a reload starts the item anew
    }
  },
  find(task) {
    try {
      const kept = sessionStorage.getItem(draft.key(task));
      return JSON.parse(kept || (task.previous ? null : localStorage.getItem(draft.key(task))));
    } catch {
      return null;
    }
  },
  forget(task) {
    try {
      sessionStorage.removeItem(draft.key(task));
      sessionStorage.removeItem(clock.key(task));
      localStorage.removeItem(draft.key(task));
    } catch {
      // as above
    }
  },
};

// Seconds of work on an item: not while another tab is in front, and those before a reload, too.
const clock = {
  counted: 0,
  since: null,
  key: (task) => "seconds of " + draft.key(task),
  keep() {
    try {
      if (S.task) sessionStorage.setItem(clock.key(S.task), clock.seconds());
    } catch {
      // a browser without storage: those before a reload are lost
    }
  },
  kept(task) {
    try {
      return 1000 * Number(sessionStorage.getItem(clock.key(task)));
    } catch {
      return 0;
    }
  },
  start(task) {
    clock.counted = task ? clock.kept(task) : 0;
    clock.since = document.hidden ? null : performance.now();
  },
  turn() {
    if (document.hidden && clock.since !== null) {
      clock.counted += performance.now() - clock.since;
      clock.since = null;
    } else if (!document.hidden && clock.since === null) clock.since = performance.now();
  },
  seconds() {
    const running = clock.since === null ? 0 : performance.now() - clock.since;
    return (clock.counted + running) / 1000;
  },
};
document.addEventListener("visibilitychange", clock.turn);
