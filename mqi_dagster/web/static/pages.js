// What is pushed takes the place of what stood there; everything else works without this script.
"use strict";
(() => {
  const STALLED_MS = 30000;
  const stalled = document.querySelector(".stalled");

  // Replace what differs and leave the rest alone, so that focus, selection and open details stay.
  function morph(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || (old.id || "") !== (fresh.id || "")) {
      old.replaceWith(fresh);
      return;
    }
    if (old.dataset?.keep && old.dataset.keep === fresh.dataset.keep) return;
    if (old.nodeType !== Node.ELEMENT_NODE) { old.nodeValue = fresh.nodeValue; return; }
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
    for (const { name, value } of [...fresh.attributes]) if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
    children(old, fresh);
  }
  function children(old, fresh) {
    const byId = new Map([...old.children].filter((one) => one.id).map((one) => [one.id, one]));
    let at = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      const known = wanted.id ? byId.get(wanted.id) : null;
      if (known && known !== at) old.insertBefore(known, at);
      const found = known || (at && !(at.id && byId.has(at.id)) && !wanted.id ? at : null);
      if (!found) { old.insertBefore(wanted, at); continue; }
      const next = found.nextSibling;
      morph(found, wanted);
      at = next;
    }
    while (at) { const next = at.nextSibling; at.remove(); at = next; }
  }

  // What was done is told once, and not again when the page is loaded anew.
  const here = new URL(location.href);
  if (here.searchParams.has("done")) { here.searchParams.delete("done"); history.replaceState(null, "", here); }
  for (const secret of document.querySelectorAll("input[readonly]")) secret.addEventListener("focus", () => secret.select());
  // Moments as an age, and what runs as a duration, in the page's language; without this script they stand as moments.
  const language = document.documentElement.lang;
  const ages = new Intl.RelativeTimeFormat(language, { numeric: "auto", style: "short" });
  const moments = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" });
  const STEPS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  const part = (unit, value) => new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "short" }).format(value);
  function told(time) {
    const seconds = Math.max(0, (Date.now() - new Date(time.dateTime)) / 1000);
    const at = STEPS.findIndex(([, size]) => seconds >= size);
    const [unit, size] = STEPS[at < 0 ? 3 : at];
    const whole = Math.floor(seconds / size);
    if ("age" in time.dataset) return unit === "second" ? ages.format(0, unit) : ages.format(-whole, unit);
    const [below, part_of] = STEPS[at + 1] || [];
    const rest = below && unit !== "minute" ? " " + part(below, Math.floor((seconds - whole * size) / part_of)) : "";
    return part(unit, whole) + rest;
  }
  function bringUpToDate(place) {
    for (const time of place.querySelectorAll("time[data-age], time[data-elapsed]")) {
      const text = told(time);
      if (time.textContent !== text) time.textContent = text;
      time.title = moments.format(new Date(time.dateTime));
    }
  }
  bringUpToDate(document);
  setInterval(() => bringUpToDate(document), 5000);

  for (const place of document.querySelectorAll("[data-stream]")) {
    let timer;
    const alive = () => {
      clearTimeout(timer);
      stalled.hidden = true;
      timer = setTimeout(() => { stalled.hidden = false; }, STALLED_MS);
    };
    const source = new EventSource(place.dataset.stream);
    source.addEventListener("part", (event) => {
      alive();
      const fresh = place.cloneNode(false);
      fresh.innerHTML = event.data;
      bringUpToDate(fresh);
      const focused = place.contains(document.activeElement) ? document.activeElement.id : "";
      children(place, fresh);
      // A row that has moved has lost it.
      if (focused && document.activeElement === document.body) document.getElementById(focused)?.focus({ preventScroll: true });
      place.dispatchEvent(new Event("changed", { bubbles: true }));
    });
    source.addEventListener("beat", alive);
    source.addEventListener("end", () => { source.close(); location.reload(); });
    source.addEventListener("error", () => { if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 5000); });
    alive();
  }

  // Slices: the picture follows its slider; while one is on its way no other is asked for.
  function slice(figure) {
    const form = figure.closest("form"), range = figure.querySelector("input"), image = figure.querySelector("img");
    const mm = (Number(figure.dataset.first) + Number(range.value) * Number(figure.dataset.step)).toFixed(1);
    figure.querySelector("output").value = mm;
    range.setAttribute("aria-valuetext", `${mm} mm`);
    const asked = new URLSearchParams({ plane: figure.dataset.plane, at: range.value, }); for (const one of form.querySelectorAll("select")) asked.set(one.name, one.value);
    const address = `${form.action}?${asked}`;
    if (figure.dataset.busy) { figure.dataset.next = address; return; }
    const show = (wanted) => {
      figure.dataset.busy = "yes";
      image.onload = image.onerror = () => {
        const next = figure.dataset.next;
        delete figure.dataset.busy; delete figure.dataset.next;
        if (next && next !== image.src) show(next);
      };
      image.src = wanted;
    };
    if (address !== image.src) show(address);
  }
  document.addEventListener("input", (event) => {
    const form = event.target.closest("form.slices"), figure = event.target.closest("figure");
    if (form) for (const one of figure ? [figure] : form.querySelectorAll("figure")) slice(one);
  });

  // Keys of a list: its rows have one link each by which they are opened.
  const search = document.querySelector("[data-search]");
  for (const button of document.querySelectorAll("[data-opens]")) {
    button.hidden = false;
    button.addEventListener("click", () => document.getElementById(button.dataset.opens).showModal());
  }
  for (const select of document.querySelectorAll("form.filters select")) select.addEventListener("change", () => select.form.requestSubmit());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog[open]")) return;
    const rows = [...document.querySelectorAll("table.keys a.key")];
    const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
    if (step && rows.length) {
      const at = rows.indexOf(document.activeElement);
      rows[at < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + step))].focus();
    } else if (event.key === "/" && search) search.focus();
    else if (event.key === "?" && document.querySelector("[data-opens=keys]")) document.querySelector("[data-opens=keys]").click();
    else return;
    event.preventDefault();
  });
})();
