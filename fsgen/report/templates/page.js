"use strict";
// What is folded opens when a link leads to it, when all is opened, and on paper; the list of sections shows the place.
(() => {
  const folded = [...document.querySelectorAll("details")];
  const button = document.querySelector("[data-open]");
  let opened = [];

  const open = () => {
    const closed = folded.filter((each) => !each.open);
    closed.forEach((each) => (each.open = true));
    return closed;
  };

  button.addEventListener("click", () => {
    if (opened.length) {
      opened.forEach((each) => (each.open = false));
      opened = [];
    } else {
      opened = open();
    }
    button.textContent = opened.length ? "Close them again" : "Open all details";
  });

  let printed = [];
  window.addEventListener("beforeprint", () => (printed = open()));
  window.addEventListener("afterprint", () => printed.forEach((each) => (each.open = false)));

  const arrive = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let each = target.querySelector("details.folded") && target.matches("figure") ? target.firstElementChild : target;
      each; each = each.parentElement) if (each.tagName === "DETAILS") each.open = true;
    target.scrollIntoView();
  };
  window.addEventListener("hashchange", arrive);
  arrive();

  // ---- where one is

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const places = [...links.keys()].map((id) => document.getElementById(id));
  const mark = () => {
    const passed = places.filter((place) => place.getBoundingClientRect().top < window.innerHeight / 3);
    const here = passed.at(-1) ?? places[0];
    links.forEach((link, id) => link.toggleAttribute("aria-current", here !== undefined && id === here.id));
  };
  let waiting = false;
  window.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; mark(); });
  }, { passive: true });
  mark();

  // ---- a definition opens below its word

  for (const word of document.querySelectorAll("button.term")) {
    const definition = document.getElementById(word.getAttribute("popovertarget"));
    definition.addEventListener("toggle", (event) => {
      if (event.newState !== "open") return;
      const box = word.getBoundingClientRect();
      const room = document.documentElement.clientWidth - definition.offsetWidth - 8;
      const below = box.bottom + 6 + definition.offsetHeight < window.innerHeight;
      definition.style.left = `${Math.max(8, Math.min(box.left, room))}px`;
      definition.style.top = `${below ? box.bottom + 6 : Math.max(8, box.top - definition.offsetHeight - 6)}px`;
    });
  }
})();
