"use strict";
// The token viewer: one example, one or two runs of it, every token with the candidates of both systems.
(() => {
  const store = JSON.parse(document.getElementById("traces").textContent);
  const root = document.querySelector(".viewer");
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const choice = (name) => root.querySelector(`[data-choice="${name}"]`);
  const SOURCES = { t: "trusted", a: "accepted", r: "recovered", b: "bonus" };
  const NONE = "";
  const { make, paint, Pane, manage } = tokenViewer(store.looks, store.shades);
  const view = manage(root);

  // ---- the data

  const words = (numbers) => numbers.map((number) => store.words[number]);

  // The distribution of one system at a position: entropy in nats (or two bounds, or null), and candidates as
  // [text, probability]; null if not known.
  function side(column, position) {
    const packed = store.columns[column][position];
    if (!packed) return null;
    const [entropy, ...flat] = packed;
    const candidates = [];
    for (let i = 0; i < flat.length; i += 2) candidates.push([store.words[flat[i]], flat[i + 1] / 1000]);
    const nats = Array.isArray(entropy) ? entropy.map((bound) => bound / 100) : entropy === null ? null : entropy / 100;
    return { entropy: nats, candidates };
  }

  // A text with its tokens; turns of a dialogue are one after the other.
  function unpack(texts) {
    const tokens = [];
    for (const text of texts) {
      words(store.columns[text.tokens]).forEach((written, position) => {
        tokens.push({
          written, position, turn: text.turn,
          source: SOURCES[text.source[position]],
          differs: text.differs[position],
          round: text.round ? text.round[position] : position,
          draft: () => side(text.draft, position),
          target: () => side(text.target, position),
        });
      });
    }
    return tokens;
  }

  // The text of one run, with what is known of it.
  function paneOf(run, texts) {
    const tokens = unpack(texts);
    const [first] = texts;
    const differing = tokens.filter((token) => token.differs === "1").length;
    const known = tokens.filter((token) => token.differs !== "-").length;
    const facts = [`${tokens.length} tokens`, `the two differ at ${differing} of ${known} known positions`];
    if (first.score !== null) facts.push(`score ${first.score}`);
    if (first.answer !== null) facts.push(`answer ${first.answer}`);
    facts.push(`ended by ${texts.at(-1).stop}`);
    return new Pane(run.label, tokens, facts);
  }

  // ---- what is chosen

  const label = (run) => `${run.method}: ${run.draft} \u2192 ${run.target}${run.base ? ` (base ${run.base})` : ""}`;
  const runs = store.runs.map((run) => ({ ...run, label: label(run) }));
  const tasks = [...new Set(runs.map((run) => run.task))];

  function fill(select, options, kept) {
    select.replaceChildren(...options.map(([value, text]) => {
      const option = make("option", "", text);
      option.value = value;
      return option;
    }));
    if (options.some(([value]) => String(value) === String(kept))) select.value = kept;
  }

  const textsOf = (run, example) =>
    store.texts.filter((text) => text.run === run && text.example === example).sort((a, b) => a.turn - b.turn);

  // A run of the pair with the most methods, and beside it another method of that pair.
  function usual(options) {
    const pair = (number) => `${runs[number].draft} ${runs[number].target}`;
    const often = (number) => options.filter((other) => pair(other) === pair(number)).length;
    const left = options.reduce((best, number) => (often(number) > often(best) ? number : best), options[0]);
    const others = options.filter((number) => number !== left && pair(number) === pair(left));
    const right = others.find((number) => runs[number].method.startsWith("route")) ?? others[0] ?? NONE;
    // Two texts below each other, as on a phone, are not side by side.
    return [left, window.matchMedia("(min-width: 50rem)").matches ? right : NONE];
  }

  function chooseTask() {
    const task = choice("task").value;
    const examples = store.examples.map((example, number) => [number, example]).filter(([, each]) => each.task === task);
    fill(choice("example"), examples.map(([number, each]) => [number, each.name]), NONE);
    chooseExample();
  }

  function chooseExample() {
    const example = Number(choice("example").value);
    const there = new Set(store.texts.filter((text) => text.example === example).map((text) => text.run));
    const options = runs.map((_, number) => number).filter((number) => there.has(number));
    const kept = ["left", "right"].map((name) => choice(name).value);
    const [left, right] = usual(options);
    const shown = options.map((number) => [number, runs[number].label]);
    const same = options.includes(Number(kept[0])) && kept[0] !== "";
    fill(choice("left"), shown, same ? kept[0] : left);
    fill(choice("right"), [[NONE, "none"], ...shown], same ? kept[1] : right);
    draw();
  }

  function draw() {
    const number = Number(choice("example").value);
    const example = store.examples[number];
    const chosen = ["left", "right"].map((name) => choice(name).value).filter((value) => value !== NONE).map(Number);
    const panes = chosen.map((run) => paneOf(runs[run], textsOf(run, number)));
    view.set(panes);
    part("panes").replaceChildren(...panes.map((pane) => pane.element));
    const shown = [];
    if (example.prompt !== null) shown.push(example.prompt);
    if (example.reference !== null) shown.push(`\u2014 reference: ${example.reference}`);
    part("prompt").textContent = shown.join("\n\n");
    root.querySelector(".question").hidden = shown.length === 0;
    const first = panes[0] ? panes[0].disagreement(-1, 1) : -1;
    view.select(0, Math.max(first, 0), false);
  }

  part("legend").append(...Object.values(SOURCES).map((source) => make("li", "", paint(make("span", "token key", source), source, 0.5))));
  fill(choice("task"), tasks.map((task) => [task, task]), NONE);
  choice("task").addEventListener("change", chooseTask);
  choice("example").addEventListener("change", chooseExample);
  choice("left").addEventListener("change", draw);
  choice("right").addEventListener("change", draw);
  chooseTask();
})();
