"use strict";
// Texts whose tokens say who wrote them: what the report and the page of a server share.
// `looks`: colour and line of each source; `shades`: opacity of a token where the draft is certain, and where it is not.
// All text of models and tasks gets onto the page as text, never as markup.
const tokenViewer = (looks, shades) => {
  function make(tag, className, ...content) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...content);
    return element;
  }

  function paint(element, source, uncertainty) {
    const look = looks[source];
    const [least, most] = shades;
    element.style.setProperty("--rgb", look.rgb.join(","));
    element.style.setProperty("--style", look.line);
    element.style.setProperty("--opacity", (least + (most - least) * uncertainty).toFixed(3));
    element.classList.toggle("double", look.line === "double");
    return element;
  }

  const visible = (text) => text.replaceAll(" ", "\u2423").replaceAll("\n", "\u21b5").replaceAll("\t", "\u2192") || "\u2205";
  const percent = (share) => (share >= 0.9995 ? "100 %" : `${(100 * share).toFixed(1)} %`);

  // A number of nats; a pair is what it is at least and at most; null or undefined is not known.
  function entropy(nats) {
    if (nats === null || nats === undefined) return "entropy not known";
    return `entropy ${[].concat(nats).map((each) => each.toFixed(2)).join(" to ")} nats`;
  }

  // ---- a pane: the text of one run, and a card with what is known of one of its tokens

  class Pane {
    // `tokens`: each with what was written, its source, and the candidates of both systems; `facts`: of the whole text.
    constructor(label, tokens, facts = []) {
      this.tokens = [];
      this.spans = [];
      this.here = -1;
      this.text = make("div", "text");
      this.text.setAttribute("role", "group");
      this.text.setAttribute("aria-label", `Tokens by ${label}`);
      this.card = make("div", "card");
      this.card.setAttribute("aria-live", "polite");
      this.facts = make("span", "", facts.join("; "));
      const heading = make("header", "", make("b", "", label), make("br"), this.facts);
      this.element = make("section", "pane", heading, this.text, this.card);
      this.append(tokens);
    }

    // More tokens, at the end.
    append(tokens) {
      for (const token of tokens) {
        const parts = this.span(token, this.tokens.length);
        this.tokens.push(token);
        this.spans.push(parts.at(-1));
        this.text.append(...parts);
      }
      if (this.tokens.length === tokens.length) this.spans[0]?.setAttribute("tabindex", "0");
    }

    span(token, index) {
      const draft = token.draft();
      const best = draft && draft.candidates.length ? draft.candidates[0][1] : 1;
      const span = paint(make("span", "token"), token.source, 1 - best);
      const lines = token.written.split("\n");
      lines.forEach((line, number) => {
        span.append(line);
        if (number < lines.length - 1) span.append(make("span", "hint", "\u21b5"), "\n");
      });
      if (!token.written) span.append(make("span", "hint", "\u00b7"));
      if (token.differs === "1") span.classList.add("differs");
      span.dataset.index = index;
      span.tabIndex = -1;
      span.setAttribute("role", "button");
      span.setAttribute("aria-label", `${visible(token.written)}, ${token.source}${token.differs === "1" ? ", differs" : ""}`);
      const turned = index > 0 && this.tokens[index - 1].turn !== token.turn;
      return turned ? [make("span", "hint", `\n\u2014 turn ${token.turn} \u2014\n`), span] : [span];
    }

    // Mark a token and say what is known of it.
    show(index) {
      this.spans[this.here]?.classList.remove("here");
      this.here = index;
      const token = this.tokens[index];
      if (!token) {
        this.card.replaceChildren(make("p", "soft", "Point at a token, or press n."));
        return;
      }
      this.spans[index].classList.add("here");
      const [draft, target] = [token.draft(), token.target()];
      const said = [`token ${token.position + 1} of ${this.tokens.length}, round ${token.round + 1}`];
      said.push(target ? "System 2 was consulted" : "System 2 was not consulted");
      if (token.differs !== "-") said.push(token.differs === "1" ? "the two differ" : "the two agree");
      const head = make("p", "", paint(make("span", "token key", token.source), token.source, 0.5), ` ${visible(token.written)} `);
      head.append(make("span", "soft", `\u2014 ${said.join("; ")}`));
      const systems = make("div", "systems", this.system("draft", draft, token), this.system("System 2", target, token));
      this.card.replaceChildren(head, systems);
    }

    system(name, known, token) {
      const said = known ? entropy(known.entropy) : "not known";
      const column = make("div", "", make("h5", "", `${name} `, make("span", "", said)));
      for (const [text, share] of known ? known.candidates : []) {
        const what = make("div", "what", make("span", "", visible(text)));
        if (text === token.written) paint(what, token.source, 0);
        what.style.setProperty("--share", share);
        const bar = make("div", "bar", what, make("div", "share", percent(share)));
        bar.classList.toggle("written", text === token.written);
        column.append(bar);
      }
      return column;
    }

    // The next place, in a direction, at which the two differ; -1 where there is none.
    disagreement(from, step) {
      for (let i = from + step; i >= 0 && i < this.tokens.length; i += step) if (this.tokens[i].differs === "1") return i;
      return -1;
    }

    // The token above or below on the screen.
    line(from, step) {
      const box = (index) => this.spans[index].getClientRects()[0];
      const start = box(from);
      let best = -1;
      for (let i = from + step; i >= 0 && i < this.spans.length; i += step) {
        const other = box(i);
        if (!other || Math.abs(other.top - start.top) < 4) continue;
        if (best >= 0 && Math.abs(other.top - box(best).top) > 4) break;
        if (best < 0 || Math.abs(other.left - start.left) < Math.abs(box(best).left - start.left)) best = i;
      }
      return best;
    }
  }

  // ---- the panes under an element: pointing, pressing, and the keys

  function manage(root) {
    let panes = [];
    let active = 0;

    // Two texts go together as long as they are the same: then a place in one is that place in the other.
    function shared() {
      if (panes.length < 2) return 0;
      const [one, two] = panes.map((pane) => pane.tokens);
      let length = 0;
      while (length < one.length && length < two.length && one[length].written === two[length].written) length += 1;
      // The first token that is not the same still has the same context.
      return length + 1;
    }

    function select(number, index, focus) {
      active = number;
      panes.forEach((pane, other) => {
        if (other === number) pane.show(index);
        else if (index < shared() && index < pane.tokens.length) pane.show(index);
        else pane.show(-1);
      });
      if (!focus) return;
      const pane = panes[number];
      pane.spans.forEach((span) => (span.tabIndex = -1));
      pane.spans[index].tabIndex = 0;
      pane.spans[index].focus({ preventScroll: true });
      pane.spans[index].scrollIntoView({ block: "nearest" });
    }

    function jump(step) {
      const pane = panes[active];
      if (!pane) return;
      const from = pane.here >= 0 ? pane.here : step > 0 ? -1 : pane.tokens.length;
      const index = pane.disagreement(from, step);
      if (index >= 0) select(active, index, true);
    }

    function place(target) {
      const span = target.closest(".text .token");
      if (!span) return null;
      const number = panes.findIndex((pane) => pane.element.contains(span));
      return number < 0 ? null : [number, Number(span.dataset.index)];
    }

    root.addEventListener("pointerover", (event) => {
      const found = event.pointerType === "mouse" && place(event.target);
      if (found) select(...found, false);
    });
    root.addEventListener("click", (event) => {
      const found = place(event.target);
      if (found) select(...found, true);
      const step = event.target.closest("[data-jump]")?.dataset.jump;
      if (step) jump(Number(step));
    });
    root.addEventListener("focusin", (event) => {
      const found = place(event.target);
      if (found && (found[0] !== active || panes[active].here !== found[1])) select(...found, false);
    });

    const onScreen = () => {
      const box = root.getBoundingClientRect();
      return box.top < window.innerHeight && box.bottom > 0;
    };

    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || /^(SELECT|INPUT|TEXTAREA)$/.test(event.target.tagName)) return;
      if ((event.key === "n" || event.key === "p") && (root.contains(event.target) || onScreen())) {
        event.preventDefault();
        jump(event.key === "n" ? 1 : -1);
        return;
      }
      const found = place(event.target);
      if (!found) return;
      const [number, index] = found;
      const pane = panes[number];
      const steps = {
        ArrowRight: () => index + 1, ArrowLeft: () => index - 1, Home: () => 0, End: () => pane.tokens.length - 1,
        ArrowDown: () => pane.line(index, 1), ArrowUp: () => pane.line(index, -1),
      };
      if (!(event.key in steps)) return;
      event.preventDefault();
      const to = steps[event.key]();
      if (to >= 0 && to < pane.tokens.length) select(number, to, true);
    });

    function set(shown) {
      panes = shown;
      active = 0;
    }

    return { set, select };
  }

  return { make, paint, visible, Pane, manage };
};
