"use strict";
// The page that tries a server out: one prompt, one or two settings, each token coloured by who wrote it.
const playground = (async () => {
  const $ = (id) => document.getElementById(id);
  const known = await (await fetch("/static/settings.json")).json();
  const { make, paint, Pane, manage } = tokenViewer(known.looks, known.shades);
  const view = manage(document.querySelector(".viewer"));
  const FIELDS = ["prompt", "mode", "max_tokens", "temperature", "top_p", "seed"];
  // Routers with a threshold: its least and largest value, and a usual one.
  const ROUTERS = { "max-prob": [0, 1, 0.5], margin: [0, 1, 0.3], entropy: [0, 6, 1], random: [0, 1, 0.3] };
  const CANDIDATES = 5;

  $("served").textContent = `${known.model}; ${Object.entries(known.members).map(([role, name]) => `${role} ${name}`).join(", ")}; up to ${known.context.toLocaleString("en")} tokens`;
  $("legend").append(...Object.keys(known.looks).map((source) => make("li", "", paint(make("span", "token key", source), source, 0.5))));
  $("max_tokens").max = known.output;
  if (!known.chat) $("mode").querySelector("[value=chat]").disabled = true;

  // ---- how a text is written: two alike sets of choices

  class Side {
    constructor(name) {
      this.name = name;
      this.box = document.querySelector(`[data-side=${name}]`);
      this.method = this.select("method", [["", `the server's own (${known.method})`], ...known.methods.map((each) => [each, each])]);
      this.router = this.select("router", [["", "the method's own"], ["always", "always"], ["never", "never"], ...Object.keys(ROUTERS).map((each) => [each, each])]);
      this.threshold = this.slider("threshold", 0, 1, 0.01, 0.5);
      this.tokens = this.select("draft tokens", [["", "the method's own"], ["auto", "auto"], ...Array.from({ length: 12 }, (_, n) => [String(n + 1), String(n + 1)])]);
      this.messages = [];
      this.router.addEventListener("change", () => this.range(true));
      this.range(true);
      if (known.methods.length === 0) for (const each of [this.method, this.router, this.tokens]) each.disabled = true;
    }

    field(label, control, shown = control) {
      control.setAttribute("aria-label", `${label}, ${this.name}`);
      this.box.append(make("label", "", `${label} `, shown));
      return control;
    }

    select(label, options) {
      const control = make("select", "");
      control.append(...options.map(([value, text]) => Object.assign(make("option", "", text), { value })));
      return this.field(label, control);
    }

    slider(label, min, max, step, value) {
      const control = Object.assign(make("input", ""), { type: "range", min, max, step, value });
      return this.field(label, control, make("span", "slide", control, make("output", "")));
    }

    // The slider fits the router; `usual`: it goes to that router's usual place.
    range(usual) {
      const found = ROUTERS[this.router.value];
      this.threshold.disabled = !found;
      if (found) [this.threshold.min, this.threshold.max] = found;
      if (found && usual) this.threshold.value = found[2];
      show(this.threshold);
    }

    get options() {
      const given = { candidates: CANDIDATES };
      if (this.method.value) given.method = this.method.value;
      if (this.router.value) given.router = ROUTERS[this.router.value] ? `${this.router.value}:${this.threshold.value}` : this.router.value;
      if (this.tokens.value) given.draft_tokens = this.tokens.value === "auto" ? "auto" : Number(this.tokens.value);
      return given;
    }

    get label() {
      const { method, router, draft_tokens: tokens } = this.options;
      return [method ?? known.method, router, tokens && `${tokens} draft tokens`].filter(Boolean).join(", ");
    }

    get chosen() {
      return [this.method.value, this.router.value, this.threshold.value, this.tokens.value];
    }

    set chosen([method, router, threshold, tokens]) {
      [this.method.value, this.router.value] = [method, router];
      this.range(false);
      [this.threshold.value, this.tokens.value] = [threshold, tokens];
      show(this.threshold);
    }
  }

  function show(slider) {
    slider.parentElement.querySelector("output").textContent = slider.disabled ? "\u2013" : Number(slider.value).toFixed(2);
  }

  const sides = [new Side("left"), new Side("right")];
  const used = () => sides.slice(0, $("both").checked ? 2 : 1);

  // ---- a link restores the settings

  function store() {
    const kept = Object.fromEntries(FIELDS.map((name) => [name, $(name).value]));
    kept.both = $("both").checked;
    kept.sides = sides.map((side) => side.chosen);
    history.replaceState(null, "", `#${encodeURIComponent(JSON.stringify(kept))}`);
  }

  function restore() {
    let kept;
    try {
      kept = JSON.parse(decodeURIComponent(location.hash.slice(1)));
    } catch {
      return;
    }
    if (kept === null || typeof kept !== "object") return;
    for (const name of FIELDS) if (typeof kept[name] === "string") $(name).value = kept[name];
    $("both").checked = kept.both === true;
    if (Array.isArray(kept.sides)) kept.sides.slice(0, 2).forEach((chosen, n) => Array.isArray(chosen) && (sides[n].chosen = chosen.map(String)));
  }

  function arrange() {
    sides[1].box.hidden = !$("both").checked;
    $("prompt-label").textContent = $("mode").value === "chat" ? "What you say" : "Prompt";
    for (const slider of document.querySelectorAll("input[type=range]")) show(slider);
    store();
  }

  // ---- requests

  const chat = () => $("mode").value === "chat";
  const path = () => (chat() ? "/v1/chat/completions" : "/v1/completions");

  function body(side) {
    const said = { role: "user", content: $("prompt").value };
    return {
      model: known.model,
      ...(chat() ? { messages: [...side.messages, said] } : { prompt: $("prompt").value }),
      max_tokens: Number($("max_tokens").value),
      temperature: Number($("temperature").value),
      top_p: Number($("top_p").value),
      seed: Number($("seed").value),
      stream: true,
      fsgen: side.options,
    };
  }

  const headers = () => ({ "content-type": "application/json", ...($("key").value ? { authorization: `Bearer ${$("key").value}` } : {}) });

  async function* events(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let left = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (left + value).split("\n\n");
      left = parts.pop();
      for (const part of parts) {
        const data = part.replace(/^data: /, "");
        if (data === "[DONE]") return;
        yield JSON.parse(data);
      }
    }
  }

  const side = (top, entropy) => (top.length ? { entropy, candidates: top.map((each) => [each.text, each.prob]) } : null);

  function asToken(record, position, turn) {
    const differs = record.draft_token === null || record.target_token === null ? "-" : String(Number(record.draft_token !== record.target_token));
    return {
      written: record.text, position, turn, source: record.source, differs, round: record.round,
      draft: () => side(record.draft_top, record.draft_entropy),
      target: () => side(record.target_top, record.target_entropy),
    };
  }

  class Counters {
    constructor(pane) {
      this.pane = pane;
      this.started = performance.now();
      this.rounds = new Set();
      this.tokens = 0;
    }

    add(records) {
      this.tokens += records.length;
      for (const each of records) if (each.target_token !== null) this.rounds.add(each.round);
      this.say(this.rounds.size);
    }

    say(calls, ended = "") {
      const seconds = (performance.now() - this.started) / 1000;
      const known = this.pane.tokens.slice(-this.tokens || Infinity).filter((token) => token.differs !== "-");
      const differing = known.filter((token) => token.differs === "1").length;
      const said = [`${this.tokens} tokens`, `${(this.tokens / seconds).toFixed(0)} tokens/s`];
      said.push(`${calls} target calls, ${Math.max(0, this.tokens - calls)} saved`);
      if (known.length) said.push(`frequency ${(differing / known.length).toFixed(2)}`);
      if (ended) said.push(ended);
      this.pane.facts.textContent = said.join("; ");
    }
  }

  let running = null;

  async function write() {
    stop();
    const stopper = (running = new AbortController());
    $("error").hidden = true;
    $("stop").disabled = false;
    $("said").textContent = "writing";
    store();
    const shown = used().map((each) => new Pane(each.label, []));
    if (chat()) shown.forEach((pane, n) => used()[n].messages.forEach((each) => pane.text.append(make("div", "turn", `${each.role}: ${each.content}`))));
    $("panes").replaceChildren(...shown.map((pane) => pane.element));
    view.set(shown);
    shown.forEach((pane) => pane.show(-1));
    try {
      await Promise.all(used().map((each, n) => writeOne(each, shown[n], stopper.signal)));
      $("said").textContent = "finished";
    } catch (error) {
      stopper.abort();
      if (error.name === "AbortError") $("said").textContent = "stopped";
      else fail(error.message);
    } finally {
      if (running === stopper) {
        running = null;
        $("stop").disabled = true;
      }
    }
  }

  async function writeOne(each, pane, signal) {
    const asked = body(each);
    const counters = new Counters(pane);
    const response = await fetch(path(), { method: "POST", headers: headers(), body: JSON.stringify(asked), signal });
    if (!response.ok) {
      const after = response.headers.get("retry-after");
      const { error } = await response.json();
      throw new Error(error.message + (after ? `; try again in ${after} s` : ""));
    }
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const [choice] = event.choices;
      const records = choice.fsgen.tokens;
      pane.append(records.map((record, n) => asToken(record, pane.tokens.length + n, 0)));
      counters.add(records);
      if (choice.finish_reason) counters.say(event.fsgen.metrics.target_calls, choice.finish_reason === "length" ? "ended by length" : "ended by itself");
    }
    if (chat()) each.messages = [...asked.messages, { role: "assistant", content: pane.tokens.map((token) => token.written).join("") }];
  }

  function stop() {
    running?.abort();
  }

  function fail(message) {
    $("said").textContent = "";
    $("error").textContent = message;
    $("error").hidden = false;
  }

  // ---- copies of the request

  const asPython = (value) => JSON.stringify(value).replaceAll(":true", ": True").replaceAll(":false", ": False").replaceAll(":null", ": None");

  const COPIES = {
    curl: () => {
      const key = $("key").value ? " -H 'authorization: Bearer YOUR_KEY'" : "";
      const text = JSON.stringify({ ...body(sides[0]), stream: false }).replaceAll("'", "'\\''");
      return `curl ${location.origin}${path()} -H 'content-type: application/json'${key} -d '${text}'`;
    },
    python: () => {
      const { fsgen, stream, ...others } = body(sides[0]);
      const lines = Object.entries(others).map(([name, value]) => `    ${name}=${asPython(value)},`);
      const call = chat() ? "chat.completions" : "completions";
      const text = chat() ? "message.content" : "text";
      return [
        "from openai import OpenAI", "",
        `client = OpenAI(base_url="${location.origin}/v1", api_key="${$("key").value ? "YOUR_KEY" : "none"}")`,
        `answer = client.${call}.create(`, ...lines, `    extra_body={"fsgen": ${asPython(fsgen)}},`, ")", `print(answer.choices[0].${text})`, "",
      ].join("\n");
    },
    link: () => location.href,
  };

  async function copy(kind) {
    store();
    const text = COPIES[kind]();
    try {
      await navigator.clipboard.writeText(text);
      $("said").textContent = `copied: ${kind}`;
    } catch {
      $("said").textContent = text; // where the browser has no clipboard for this page
    }
  }

  // ---- what is pressed

  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    write();
  });
  $("form").addEventListener("input", arrange);
  $("stop").addEventListener("click", stop);
  $("clear").addEventListener("click", () => {
    stop();
    sides.forEach((each) => (each.messages = []));
    $("panes").replaceChildren();
    $("error").hidden = true;
    $("said").textContent = "";
    view.set([]);
  });
  for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button.dataset.copy));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running) stop();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      write();
    }
  });
  window.addEventListener("hashchange", () => {
    restore();
    arrange();
  });
  restore();
  arrange();
  return { headers, make };
})();
playground.catch((error) => {
  const shown = document.getElementById("error");
  shown.textContent = `This page could not ask its server: ${error.message}`;
  shown.hidden = false;
});
