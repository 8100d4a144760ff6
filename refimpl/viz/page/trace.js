"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [k, v] of Object.entries(attributes)) {
      if (v === null || v === undefined || v === false) continue;
      if (k === "class") node.className = v;
      else if (k === "text") node.textContent = v;
      else if (k === "html") node.innerHTML = v; // only MathML that the generator made and escaped
      else if (k.startsWith("on")) node.addEventListener(k.slice(2), v);
      else node.setAttribute(k, v === true ? "" : v);
    }
    node.append(...children.filter((c) => c !== null && c !== undefined));
    return node;
  };
  const svg = (tag, attributes = {}, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
    node.append(...children);
    return node;
  };

  // ---------------------------------------------------------------- numbers and arrays

  const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const TYPES = { f8: Float64Array, f4: Float32Array, i4: Int32Array, u1: Uint8Array };
  const decode = (type, text) => new TYPES[type](bytesOf(text));
  const cache = new Map();
  // {shape: of what is here, whole: of the array, every: steps of a thumbnail or null, v: values, least, most, mean}
  const array = (k) => {
    if (!cache.has(k)) {
      const a = data.arrays[k];
      const v = decode(a.t, a.b);
      let least = Infinity, most = -Infinity, sum = 0;
      for (const x of v) { if (x < least) least = x; if (x > most) most = x; sum += x; }
      const stats = a.stats || [least, most, sum / v.length];
      cache.set(k, { id: k, shape: a.s, whole: a.whole || a.s, every: a.every || null, type: a.dtype, v, least: stats[0], most: stats[1], mean: stats[2] });
    }
    return cache.get(k);
  };
  const show = (x, digits = 4) => {
    if (Number.isNaN(x)) return "NaN";
    if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
    if (x === 0) return "0";
    const size = Math.abs(x);
    let text;
    if (Number.isInteger(x) && size < 1e7) text = String(x);
    else if (size >= 1e-3 && size < 1e5) text = x.toPrecision(digits);
    else text = x.toExponential(digits - 1);
    return text.replaceAll("-", "−");
  };
  const full = (x) => show(x, 15);
  const seconds = (s) => (s < 1e-3 ? `${show(1e6 * s, 3)} µs` : s < 1 ? `${show(1e3 * s, 3)} ms` : `${show(s, 3)} s`);
  const bytes = (n) => (n < 1024 ? `${n} bytes` : n < 1 << 20 ? `${(n / 1024).toFixed(1)} KiB` : `${(n / (1 << 20)).toFixed(1)} MiB`);
  const product = (a) => a.reduce((x, y) => x * y, 1);
  const index = (shape, i) => {
    const at = [];
    for (let k = shape.length - 1; k >= 0; k--) { at.unshift(i % shape[k]); i = Math.floor(i / shape[k]); }
    return at;
  };
  const place = (card, i) => {
    const a = card.a;
    if (card.entries) return index(card.of, card.entries[i]);
    const at = index(a.shape, i);
    return a.every ? at.map((x, k) => x * a.every[k]) : at;
  };
  const named = (at, axes) => (at.length ? `[${at.map((x, k) => (axes && axes[k] && axes[k] !== "·" ? `${axes[k]} ${x}` : x)).join(", ")}]` : "");

  // ---------------------------------------------------------------- colours

  const style = getComputedStyle(document.documentElement);
  const rgb = (name) => {
    const text = style.getPropertyValue(name).trim();
    return [1, 3, 5].map((k) => parseInt(text.slice(k, k + 2), 16));
  };
  let COLOURS;
  const readColours = () => { COLOURS = { minus: rgb("--minus"), zero: rgb("--zero"), plus: rgb("--plus"), odd: rgb("--odd"), ink: style.getPropertyValue("--ink").trim() }; };
  readColours();
  const colour = (x, most) => {
    if (!Number.isFinite(x)) return COLOURS.odd;
    const part = most > 0 ? Math.max(-1, Math.min(1, x / most)) : 0;
    const end = part < 0 ? COLOURS.minus : COLOURS.plus;
    const t = Math.abs(part) ** 0.85; // small values stay visible
    return COLOURS.zero.map((c, k) => Math.round(c + (end[k] - c) * t));
  };
  // Black or white, whichever stands out more: relative luminance as WCAG defines it.
  const luminance = (shade) => shade.map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)).reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
  const inkOn = (shade) => (luminance(shade) > 0.179 ? "#000000" : "#ffffff");

  // ---------------------------------------------------------------- heat maps

  let cards = [];
  // How entries lie on the picture: tiles of the last two axes, in a row for the third last, the rest downwards.
  const layout = (shape, room) => {
    const n = product(shape);
    if (shape.length <= 1) {
      const wide = n <= 80 ? n : Math.min(n, room >= 560 ? 64 : 32);
      return { rows: Math.ceil(n / wide), columns: wide, at: (i) => [Math.floor(i / wide), i % wide], find: (r, c) => (c < wide && r * wide + c < n ? r * wide + c : -1), gap: () => [0, 0], tiles: [1, 1] };
    }
    const w = shape.at(-1), h = shape.at(-2);
    const across = shape.length > 2 ? shape.at(-3) : 1;
    const down = shape.length > 3 ? product(shape.slice(0, -3)) : 1;
    return {
      rows: h * down, columns: w * across,
      at: (i) => { const tile = Math.floor(i / (w * h)), j = i % (w * h); return [Math.floor(tile / across) * h + Math.floor(j / w), (tile % across) * w + (j % w)]; },
      find: (r, c) => (r < h * down && c < w * across ? (Math.floor(r / h) * across + Math.floor(c / w)) * w * h + (r % h) * w + (c % w) : -1),
      gap: (r, c) => [Math.floor(r / h), Math.floor(c / w)], tiles: [down, across],
    };
  };

  const draw = (card) => {
    const { a, canvas } = card;
    const room = Math.max(120, Math.min(card.room(), 900));
    const plan = (card.plan = layout(card.shape, room));
    const fit = Math.floor((room - 3 * (plan.tiles[1] - 1)) / plan.columns);
    let w = Math.max(4, Math.min(22, fit)), h = w;
    const words = plan.rows <= 16 && fit >= 36;
    if (words) { w = Math.min(44, fit); h = 24; }
    if (a.v.length === 1) { w = 52; h = 24; }
    card.cell = [w, h];
    const spread = 3;
    const width = plan.columns * w + spread * (plan.tiles[1] - 1), height = plan.rows * h + spread * (plan.tiles[0] - 1);
    const dense = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * dense); canvas.height = Math.round(height * dense);
    canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(dense, dense);
    const most = Math.max(Math.abs(a.least), Math.abs(a.most)) || 0;
    const edge = w > 9 ? 1 : 0;
    pen.font = "11px system-ui, sans-serif"; pen.textAlign = "center"; pen.textBaseline = "middle";
    const corner = (r, c) => { const [gr, gc] = plan.gap(r, c); return [c * w + gc * spread, r * h + gr * spread]; };
    card.corner = corner;
    for (let i = 0; i < a.v.length; i++) {
      const [r, c] = plan.at(i), [x, y] = corner(r, c), shade = colour(a.v[i], most);
      pen.fillStyle = `rgb(${shade})`;
      pen.fillRect(x, y, w - edge, h - edge);
      if (words) {
        pen.fillStyle = inkOn(shade);
        pen.fillText(show(a.v[i], 2), x + (w - edge) / 2, y + (h - edge) / 2 + 0.5, w - 3);
      }
    }
    if (card.chosen !== null && card.chosen >= 0) {
      const [r, c] = plan.at(card.chosen), [x, y] = corner(r, c);
      pen.lineWidth = 4; pen.strokeStyle = style.getPropertyValue("--paper").trim();
      pen.strokeRect(x + 0.5, y + 0.5, w - edge - 1, h - edge - 1);
      pen.lineWidth = 2; pen.strokeStyle = COLOURS.ink;
      pen.strokeRect(x + 0.5, y + 0.5, w - edge - 1, h - edge - 1);
    }
  };

  const told = (card, i) => `${card.name}${named(place(card, i), card.axes)} = ${show(card.a.v[i], 6)}`;
  const choose = (card, i, speak) => {
    card.chosen = i;
    draw(card);
    card.value.textContent = i >= 0 ? told(card, i) : card.stats;
    if (speak && i >= 0) say(told(card, i));
    if (card.choose) card.choose(i);
  };
  const under = (card, event) => {
    const box = card.canvas.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top, [w, h] = card.cell;
    const { plan } = card, [th, tw] = [plan.rows / plan.tiles[0], plan.columns / plan.tiles[1]];
    const c = Math.floor((x - 3 * Math.floor(x / (tw * w + 3))) / w), r = Math.floor((y - 3 * Math.floor(y / (th * h + 3))) / h);
    return c >= 0 && r >= 0 && c < plan.columns && r < plan.rows ? plan.find(r, c) : -1;
  };
  const tip = $("tip");
  const hover = (card, event) => {
    const i = under(card, event);
    if (i < 0 || i >= card.a.v.length) { tip.hidden = true; return; }
    tip.textContent = told(card, i);
    tip.hidden = false;
    const width = tip.offsetWidth;
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, window.innerWidth - width - 4))}px`;
    tip.style.top = `${event.clientY + 34 > window.innerHeight ? event.clientY - 34 : event.clientY + 16}px`;
  };
  const walk = (card, event) => {
    const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
    if (event.key === "Escape") { $("next").focus(); event.stopPropagation(); return; }
    if (event.shiftKey || event.ctrlKey || event.metaKey || event.altKey) return;
    let i;
    if (event.key === "Home") i = 0;
    else if (event.key === "End") i = card.a.v.length - 1;
    else if (moves[event.key]) {
      if (card.chosen === null || card.chosen < 0) i = 0;
      else {
        const [r, c] = card.plan.at(card.chosen), [dr, dc] = moves[event.key];
        i = r + dr < 0 || c + dc < 0 || c + dc >= card.plan.columns ? -1 : card.plan.find(r + dr, c + dc);
        if (i < 0 || i >= card.a.v.length) i = card.chosen;
      }
    } else return;
    event.preventDefault(); event.stopPropagation();
    choose(card, i, true);
  };

  const axesNode = (shape, axes) => {
    const node = make("span", { class: "axes" });
    if (!shape.length) return node;
    node.append("(");
    shape.forEach((n, k) => {
      if (k) node.append(", ");
      if (axes && axes[k] && axes[k] !== "·") {
        const [letter, below] = axes[k].split("_");
        node.append(make("i", {}, letter, below ? make("sub", { text: below }) : null), " ");
      }
      node.append(String(n));
    });
    node.append(")");
    return node;
  };
  const table = (card) => {
    const { a } = card, shape = card.shape;
    const columns = shape.length ? shape.at(-1) : 1, rows = a.v.length / columns;
    const head = make("tr", {}, make("th", { scope: "col", text: card.axes && shape.length ? card.axes.at(-1) : "" }));
    for (let c = 0; c < columns; c++) head.append(make("th", { scope: "col", text: String(c) }));
    const body = make("tbody");
    for (let r = 0; r < rows; r++) {
      const line = make("tr", {}, make("th", { scope: "row", text: index(shape.slice(0, -1), r).join(", ") || "0" }));
      for (let c = 0; c < columns; c++) line.append(make("td", { text: show(a.v[r * columns + c], 6) }));
      body.append(line);
    }
    return make("div", { class: "table", tabindex: "0", role: "region", "aria-label": `${card.name} as numbers` }, make("table", {}, make("caption", { class: "sr", text: card.name }), make("thead", {}, head), body));
  };
  // One array: name, shape, where it comes from, picture, the entry under the cursor, its numbers as a table.
  const figure = (name, k, axes, more = {}) => {
    const a = array(k);
    const card = { a, name, axes, shape: more.entries ? [more.entries.length] : a.shape, of: a.whole, entries: more.entries || null, chosen: null, choose: more.choose || null };
    const node = make("figure", { class: `array${more.waiting ? " waiting" : ""}`, "data-name": name });
    const caption = make("figcaption", {}, make("span", { class: "name", text: name }), " ", axesNode(a.whole, axes));
    if (more.from) caption.append(" ", more.from);
    node.append(caption);
    card.value = make("p", { class: "value" });
    if (!a.whole.length) {
      node.classList.add("number");
      card.value.textContent = show(a.v[0], 8);
      node.append(card.value);
      return node;
    }
    if (a.least === 0 && a.most === 0 && !more.choose) {
      card.value.textContent = `all 0, ${a.type}`;
      node.append(card.value);
      return node;
    }
    const size = a.whole.join(" by ");
    card.canvas = make("canvas", {
      tabindex: "0", role: "application", "aria-roledescription": "heat map",
      "aria-label": `${name}, ${size}, from ${show(a.least)} to ${show(a.most)}, mean ${show(a.mean)}. Arrow keys read the entries, Escape leaves.`,
      onpointermove: (e) => { if (e.pointerType === "mouse") hover(card, e); },
      onpointerleave: () => { tip.hidden = true; },
      onclick: (e) => { const i = under(card, e); if (i >= 0 && i < a.v.length) choose(card, i, true); },
      onkeydown: (e) => walk(card, e),
      onfocus: () => { if (card.chosen === null && a.v.length && card.canvas.matches(":focus-visible")) choose(card, 0, true); },
    });
    const holder = make("div", { class: "holder" }, card.canvas);
    card.room = () => node.parentElement ? Math.min(node.parentElement.clientWidth, more.room || 640) : 320;
    const stride = a.every ? Math.max(...a.every) : 0, ending = stride === 2 ? "nd" : stride === 3 ? "rd" : "th";
    const note = a.every ? `, every ${stride}${ending} entry shown` : card.entries ? `, ${card.entries.length} entries checked` : "";
    card.stats = `${show(a.least)} to ${show(a.most)}, mean ${show(a.mean)}, ${a.type}${note}`;
    card.value.textContent = card.stats;
    node.append(holder, card.value);
    if (a.v.length <= 1024) {
      const fold = make("details", {}, make("summary", { text: "As numbers" }));
      fold.addEventListener("toggle", () => { if (fold.open && fold.children.length === 1) fold.append(table(card)); });
      node.append(fold);
    }
    cards.push(card);
    node.card = card;
    return node;
  };
  const redraw = () => cards.forEach((card) => { if (card.canvas.isConnected) draw(card); });

  // ---------------------------------------------------------------- source

  const KEYWORDS = {
    numpy: /\b(def|return|if|else|elif|for|in|is|not|and|or|None|True|False|raise|with|lambda|import|from|while)\b/,
    c: /\b(int|real|const|static|inline|return|if|else|for|while|i64|double|float|void|enum|struct|break|continue|do)\b/,
  };
  const colourLine = (text, language, node) => {
    const comment = language === "c" ? /\/\*.*?(\*\/|$)|\/\/.*|^\s\*.*|^\s*#\w+/ : /#.*/;
    const pattern = new RegExp(`(${comment.source})|("[^"]*")|${KEYWORDS[language].source}|\\b(\\d[\\w.]*)\\b`, "g");
    let at = 0;
    for (const m of text.matchAll(pattern)) {
      node.append(text.slice(at, m.index));
      const kind = m[1] !== undefined ? "c1" : /^["\d]/.test(m[0]) ? "c3" : "c2";
      node.append(make("span", { class: kind, text: m[0] }));
      at = m.index + m[0].length;
    }
    node.append(text.slice(at));
  };
  const fill = (panel, source, language) => {
    panel.replaceChildren();
    if (!source) { panel.append(make("p", { class: "none", text: language === "c" ? "This operation has no C body." : "" })); return; }
    let before = null;
    for (const [number, text] of source.lines) {
      if (before !== null && number > before + 1) panel.append(make("span", { class: "gap", "aria-hidden": "true", text: "⋯" }));
      const row = make("span", { class: "row", "data-line": number });
      row.append(make("span", { class: "ln", "aria-hidden": "true", text: String(number) }));
      colourLine(text, language, row);
      panel.append(row);
      before = number;
    }
  };
  const mark = (panel, ranges, done) => {
    let first = null;
    for (const row of panel.querySelectorAll(".row")) {
      const n = Number(row.dataset.line);
      const now = ranges.some(([a, b]) => n >= a && n <= b);
      row.classList.toggle("now", now);
      row.classList.toggle("done", !now && done.some(([a, b]) => n >= a && n <= b));
      if (now) { row.setAttribute("aria-current", "step"); first = first || row; } else row.removeAttribute("aria-current");
    }
    if (first) {
      const top = first.offsetTop - panel.clientHeight / 2.6;
      panel.scrollTop = Math.max(0, top);
    } else panel.scrollTop = 0;
  };

  // ---------------------------------------------------------------- steps

  const calls = data.calls, ops = data.ops;
  const steps = [];
  calls.forEach((call, c) => {
    call.start = steps.length;
    call.steps.forEach((_, s) => steps.push([c, s]));
  });
  let now = -1, shownCall = -1;
  const live = $("live");
  const say = (text) => { live.textContent = text; };
  const breakable = (name) => name.split("_").flatMap((part, i) => (i ? ["_", make("wbr"), part] : [part])); // a long name may wrap
  const link = (c, words) => make("button", { type: "button", class: "link", text: words || `${c} ${calls[c].op}`, onclick: () => go(calls[c].start) });

  const origin = (a) => {
    if (a.from === null || a.from === undefined) return null;
    return make("span", { class: "from" }, "from ", link(a.from), a.changed ? ", changed since" : "");
  };
  const list = (id, arrays, options = () => ({})) => {
    const box = $(id);
    const nodes = arrays.map((a) => figure(a.name, a.k, a.axes, options(a)));
    box.replaceChildren(...(nodes.length ? nodes : [make("p", { class: "none", text: "Nothing." })]));
    nodes.forEach((n) => { if (n.card && n.card.canvas) draw(n.card); });
    return nodes;
  };

  const enter = (c) => {
    const call = calls[c], op = ops[call.op];
    shownCall = c;
    document.documentElement.dataset.call = String(c);
    const main = $("operation");
    main.classList.remove("forward", "backward", "update");
    main.classList.add(op.kind);
    $("op-number").textContent = String(c);
    $("op-name").replaceChildren(...breakable(call.op));
    $("op-kind").textContent = { forward: "forward", backward: "gradient", update: "update in place" }[op.kind];
    $("equations").replaceChildren(...op.equations.map((html) => make("p", { html })));
    const partner = $("partner");
    partner.replaceChildren();
    if (call.partner !== null) {
      partner.append(op.kind === "backward" ? "Gradient of " : "Its gradient: ", link(call.partner), { identity: ": they share arrays", values: ": they have equal arrays", order: ": the next of its name" }[call.how] + ".");
      if (call.checks.length) partner.append(" Checked ", make("button", { type: "button", class: "link", text: "by differences", onclick: () => { $("check").scrollIntoView(); $("which").focus({ preventScroll: true }); } }), ".");
    } else if (op.kind === "backward") partner.append("Its forward operation is not in this trace.");
    else if (call.checks.length) partner.append("Returns its own gradient.");
    const jump = $("jump");
    jump.disabled = call.partner === null;
    $("jump-word").textContent = op.kind === "backward" ? "Forward" : "Gradient";
    jump.setAttribute("aria-label", call.partner === null ? "No gradient to jump to" : `Jump to ${call.partner} ${calls[call.partner].op}`);
    const places = call.places;
    $("places").hidden = !places.length;
    if (places.length) {
      const [file, line, , text] = places[0];
      const summary = $("places").querySelector("summary");
      summary.replaceChildren("Called from ", make("span", { class: "file", text: `${file}:${line}` }), " ", make("code", { text }));
      $("places-list").replaceChildren(...places.slice(1).map(([f, l, name, t]) => make("li", {}, make("span", { class: "file", text: `${f}:${l}` }), ` in ${name} `, make("br"), make("code", { text: t }))));
    }
    fill($("numpy"), op.numpy, "numpy");
    fill($("c"), op.c, "c");
    $("numpy-file").textContent = op.numpy.file;
    $("c-file").textContent = op.c ? op.c.file : "";
    const [a, b] = [call.bodies.numpy, call.bodies.native];
    $("numpy-time").textContent = a ? seconds(a.seconds) : "";
    $("c-time").textContent = b ? `${seconds(b.seconds)}, ${b.difference === 0 ? "same bits" : `differs by ${show(b.difference, 1)}`}` : "";
    $("numbers").replaceChildren(...call.numbers.flatMap(([k, v], i) => [i ? ", " : "", make("code", { text: `${k} = ${v}` })]));
    cards = [];
    list("in-arrays", [...call.in].sort((x, y) => x.name.startsWith("add_to") - y.name.startsWith("add_to")), (x) => ({ from: origin(x) }));
    for (const button of $("list").querySelectorAll("button")) {
      const here = Number(button.dataset.call) === c;
      if (here) {
        button.setAttribute("aria-current", "true");
        const box = button.closest(".operations"), wide = getComputedStyle(box).position === "sticky";
        if (wide && box.scrollHeight > box.clientHeight) box.scrollTop = button.offsetTop - box.clientHeight / 2;
      } else button.removeAttribute("aria-current");
    }
    highlight(c);
    check(call);
  };

  const go = (n, quietly) => {
    n = Math.max(0, Math.min(steps.length - 1, n));
    if (n === now) return;
    now = n;
    const [c, s] = steps[n];
    if (c !== shownCall) enter(c);
    const call = calls[c], op = ops[call.op], step = call.steps[s];
    tip.hidden = true;
    mark($("numpy"), [[step.a, step.b]], call.steps.slice(0, s).map((x) => [x.a, x.b]));
    mark($("c"), step.c, call.steps.slice(0, s).flatMap((x) => x.c));
    const kept = cards.filter((card) => !$("line-arrays").contains(card.canvas) && !$("out-arrays").contains(card.canvas));
    cards = kept;
    list("line-arrays", step.wrote);
    const last = s === call.steps.length - 1;
    list("out-arrays", call.out, () => ({ waiting: !last }));
    const slider = $("slider");
    slider.value = String(n + 1);
    const line = op.numpy.lines.filter(([k]) => k >= step.a && k <= step.b).map(([, t]) => t.trim()).join(" ");
    slider.setAttribute("aria-valuetext", `step ${n + 1} of ${steps.length}, ${call.op}`);
    $("count").textContent = `${n + 1} / ${steps.length}`;
    $("back").disabled = n === 0;
    $("next").disabled = n === steps.length - 1;
    const made = step.wrote.map((w) => `${w.name}${array(w.k).whole.length ? `, ${array(w.k).whole.join(" by ")}` : ""}`).join("; ");
    if (!quietly) say(`Step ${n + 1} of ${steps.length}. Operation ${c}, ${call.op}, line ${step.a}: ${line}. Computes ${made}.`);
    history.replaceState(null, "", `#${n + 1}`);
  };
  const operation = (d) => {
    const c = shownCall + d;
    if (d < 0 && steps[now][1] > 0) go(calls[shownCall].start);
    else if (c >= 0 && c < calls.length) go(calls[c].start);
  };
  const jump = () => { const p = calls[shownCall].partner; if (p !== null) go(calls[p].start); };

  // ---------------------------------------------------------------- the gradient, checked

  const check = (call) => {
    $("check").hidden = !call.checks.length && !call.unchecked;
    const which = $("which");
    which.replaceChildren(...call.checks.map((x, i) => make("option", { value: String(i), text: `${x.name}, of ${x.of}` })));
    $("check").querySelector(".choose").hidden = !call.checks.length;
    $("check").querySelector(".explain").hidden = !call.checks.length;
    $("check-arrays").replaceChildren();
    $("check-numbers").replaceChildren();
    if (call.unchecked) $("check-numbers").textContent = call.unchecked;
    if (call.checks.length) measure(call, 0);
  };
  const decoded = (x) => {
    if (!x.ready) {
      x.ready = true;
      for (const k of ["h", "plus", "minus"]) x[k] = decode("f8", x[k]);
      x.exact = decode("f8", x.exact); x.moved = decode("f8", x.moved); x.seen = decode("f8", x.seen);
      x.entries = x.entries ? Array.from(decode("i4", x.entries)) : null;
    }
    return x;
  };
  const errors = (x) => Array.from(x.h, (h, i) => Math.abs((x.plus[i] - x.minus[i]) / (2 * h) - x.exact[i]) / x.scale);
  const measure = (call, i) => {
    const x = decoded(call.checks[i]);
    const all = errors(x), worst = all.reduce((a, e) => (e > a || Number.isNaN(e) ? e : a), 0), bad = all.filter((e) => !(e <= data.limit)).length;
    const verdict = $("verdict");
    verdict.className = bad ? "bad" : "good";
    verdict.textContent = bad
      ? `✗ ${bad} of ${all.length} entries disagree, by up to ${show(worst, 2)} of the largest`
      : `✓ ${all.length} of ${product(array(x.gradient).whole)} entries checked, all agree: within ${show(worst, 2)} of the largest`;
    const onto = (j) => { pair.forEach((n) => { if (n.card.chosen !== j) { n.card.chosen = j; draw(n.card); n.card.value.textContent = told(n.card, j); } }); tell(x, j); };
    const options = { entries: x.entries, choose: onto, room: 480 };
    const pair = [figure(x.of, x.value, x.axes, options), figure(x.name, x.gradient, x.axes, options)];
    cards = cards.filter((card) => !$("check-arrays").contains(card.canvas));
    $("check-arrays").replaceChildren(...pair);
    pair.forEach((n) => { if (!n.card.canvas) { n.card = { chosen: 0 }; } else draw(n.card); });
    if (!pair[0].card.canvas) { tell(x, 0); return; }
    let best = 0; // begin with the entry that matters most
    x.exact.forEach((g, j) => { if (Math.abs(g) > Math.abs(x.exact[best])) best = j; });
    if (bad) best = all.findIndex((e) => !(e <= data.limit));
    choose(pair[1].card, best, false);
  };
  const tell = (x, j) => {
    const quotient = (x.plus[j] - x.minus[j]) / (2 * x.h[j]);
    const error = Math.abs(quotient - x.exact[j]) / x.scale, ok = error <= data.limit;
    const at = named(index(array(x.value).whole, x.entries ? x.entries[j] : j), x.axes);
    const rows = [
      [`${x.of}${at}`, full(x.moved[j])],
      ["moved by h", `± ${full(x.h[j])}`],
      [`L(${x.of} + h)`, full(x.plus[j])],
      [`L(${x.of} − h)`, full(x.minus[j])],
      ["(L(+) − L(−)) / 2h", full(quotient)],
      [`${x.name}${at} by hand`, full(x.exact[j])],
      [`${x.name} as recorded`, full(x.seen[j])],
    ];
    const dl = make("dl", {}, ...rows.flatMap(([a, b]) => [make("dt", { text: a }), make("dd", { text: b })]));
    const verdict = make("p", { class: ok ? "good" : "bad", "data-verdict": ok ? "ok" : "wrong", text: ok ? `✓ They agree: the difference is ${show(error, 2)} of the largest entry.` : `✗ They differ by ${show(error, 3)} of the largest entry; ${show(data.limit, 1)} is allowed.` });
    $("check-numbers").replaceChildren(dl, verdict);
  };

  // ---------------------------------------------------------------- timeline

  let bars = [];
  const timeline = () => {
    const box = $("timeline"), n = calls.length, wide = Math.max(300, box.clientWidth), left = 2, right = 2;
    const small = wide < 560;
    const each = Math.max(5, (wide - left - right) / n), width = Math.max(wide, each * n + left + right);
    const arcs = small ? 34 : 52, up = small ? 46 : 60, down = 40, base = arcs + up, height = base + down + 4;
    const times = calls.map((c) => [c.bodies.numpy ? c.bodies.numpy.seconds : 0, c.bodies.native ? c.bodies.native.seconds : 0]);
    const longest = Math.max(...times.flat(), 1e-9), most = Math.max(...data.memory, 1);
    const x = (i) => left + each * i;
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    if (width > wide) root.style.width = `${width}px`;
    bars = [];
    calls.forEach((c, i) => {
      if (c.partner === null || c.partner < i) return;
      const a = x(i) + each / 2, b = x(c.partner) + each / 2, rise = Math.min(arcs - 6, 8 + ((b - a) / width) * arcs * 1.6);
      const arc = svg("path", { class: "arc", d: `M${a},${arcs} C${a},${arcs - rise * 1.3} ${b},${arcs - rise * 1.3} ${b},${arcs}` });
      root.append(arc);
      bars.push({ arc, pair: [i, c.partner] });
    });
    const area = data.memory.map((m, i) => `${x(i)},${base + 4 + (m / most) * (down - 6)} ${x(i + 1)},${base + 4 + (m / most) * (down - 6)}`).join(" ");
    root.append(svg("polygon", { class: "memory", points: `${x(0)},${base + 4} ${area} ${x(n)},${base + 4}` }));
    calls.forEach((c, i) => {
      const group = svg("g", { class: ops[c.op].kind });
      const gap = Math.min(3, each * 0.16), half = (each - gap) / 2;
      times[i].forEach((t, k) => {
        const tall = Math.max(1.5, (t / longest) * (up - 8));
        group.append(svg("rect", { x: x(i) + gap / 2 + k * half, y: base - tall, width: Math.max(1, half - 0.6), height: tall, rx: Math.min(1.5, half / 3), fill: "var(--tone)", "fill-opacity": k ? 1 : 0.45 }));
      });
      root.append(group);
    });
    const here = svg("rect", { class: "here", y: arcs - 4, height: height - arcs + 2, width: each });
    root.append(here);
    bars.here = here; bars.x = x;
    calls.forEach((c, i) => {
      const hit = svg("rect", { class: "hit", x: x(i), y: 0, width: each, height });
      hit.append(svg("title"));
      hit.firstChild.textContent = `${i} ${c.op}: NumPy ${seconds(times[i][0])}${times[i][1] ? `, C ${seconds(times[i][1])}` : ""}; ${bytes(data.memory[i])} held`;
      hit.addEventListener("click", () => go(c.start));
      root.append(hit);
    });
    box.replaceChildren(root);
    $("key").replaceChildren(
      ...[["--forward", "forward"], ["--backward", "gradient"], ["--update", "update"]].map(([v, t]) => make("span", {}, make("i", { style: `background:var(${v})` }), t)),
      make("span", { text: `upwards: pale NumPy, full C, up to ${seconds(longest)}` }),
      make("span", {}, make("i", { style: "background:var(--memory)" }), `downwards: memory the step holds, up to ${bytes(most)}`),
      make("span", { text: "arcs: an operation and its gradient" }),
    );
    if (shownCall >= 0) highlight(shownCall);
  };
  const highlight = (c) => {
    if (!bars.here) return;
    bars.here.setAttribute("x", bars.x(c));
    bars.forEach(({ arc, pair }) => { const on = pair.includes(c); arc.classList.toggle("now", on); if (on) arc.parentNode.insertBefore(arc, bars.here); });
    const box = $("timeline");
    if (box.scrollWidth > box.clientWidth) box.scrollLeft = (bars.x(c) / box.scrollWidth) * box.scrollWidth - box.clientWidth / 2;
  };

  // ---------------------------------------------------------------- the page

  $("kicker").textContent = data.kicker;
  $("lede").textContent = data.lede;
  $("meta").textContent = data.meta;
  $("foot").textContent = data.foot;
  $("alphabet").textContent = data.alphabet;
  $("list").append(...calls.map((call, c) => {
    const kind = ops[call.op].kind;
    const p = call.partner === null ? "" : `⇄ ${call.partner}`;
    const button = make("button", { type: "button", "data-call": String(c), onclick: () => go(call.start) }, make("span", { class: "n", text: String(c) }), make("span", {}, ...breakable(call.op)), make("span", { class: "p" }, make("span", { "aria-hidden": "true", text: p }), p ? make("span", { class: "sr", text: `, pairs with ${call.partner}` }) : null));
    return make("li", { class: `${kind}${call.parent === null ? "" : " inner"}` }, button);
  }));
  if (window.matchMedia("(max-width: 62rem)").matches) $("operations-fold").open = false;
  $("slider").max = String(steps.length);
  $("slider").addEventListener("input", () => go(Number($("slider").value) - 1));
  $("next").addEventListener("click", () => go(now + 1));
  $("back").addEventListener("click", () => go(now - 1));
  $("jump").addEventListener("click", jump);
  $("which").addEventListener("change", () => measure(calls[shownCall], Number($("which").value)));
  const help = () => {
    $("keys").showModal();
    const pen = $("scale").getContext("2d");
    for (let i = 0; i < 240; i++) { pen.fillStyle = `rgb(${colour(i - 119.5, 120)})`; pen.fillRect(i, 0, 1, 16); }
  };
  $("help").addEventListener("click", help);
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
    if (event.target.closest("select, input, textarea") && event.key !== "g" && event.key !== "?") return;
    const scrolls = event.target.closest(".table");
    const act = {
      ArrowRight: () => (event.shiftKey ? operation(1) : go(now + 1)),
      ArrowLeft: () => (event.shiftKey ? operation(-1) : go(now - 1)),
      Home: () => go(0), End: () => go(steps.length - 1), g: jump, G: jump, "?": help,
    }[event.key];
    if (!act || scrolls) return;
    event.preventDefault();
    act();
  });
  let width = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; timeline(); redraw(); } });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); redraw(); });
  window.addEventListener("hashchange", () => go((parseInt(location.hash.slice(1), 10) || 1) - 1));
  timeline();
  go((parseInt(location.hash.slice(1), 10) || 1) - 1, true);
  window.refimpl = { steps, calls, array, go, cell: (x, most) => { const shade = colour(x, most); return [shade, inkOn(shade)]; }, get now() { return now; } }; // for tests and the curious
})();
