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
      children(place, fresh);
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
    const asked = new URLSearchParams({ plane: figure.dataset.plane, at: range.value, window: form.elements.window.value, dose: form.elements.dose.value });
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
})();
