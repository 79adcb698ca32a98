"use strict";
// The image browser. All text from runs enters the page as text (textContent, title, alt), never as markup.
(function () {
  const started = performance.now();
  const OUTCOMES = ["\u25b2 won", "\u25bc lost", "\u25cf both right", "\u25cb both wrong", "\u2013 no label"];
  const STYLES = ["won", "lost", "", "", ""];
  const NONE = -1;
  const $ = (id) => document.getElementById(id);
  if (!$("browse")) return;

  const read = (id) => { const found = $(id); return found ? JSON.parse(found.textContent) : null; };
  const kept = new Map();
  const once = (id) => { if (!kept.has(id)) kept.set(id, read(id)); return kept.get(id); };
  const about = read("about");
  const state = { run: 0, order: [], page: 0, sort: "change", down: true, chosen: NONE };
  let data, paths, lower, pictures, views, names, counts;

  const make = (tag, text, className) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };
  // The end of a path tells more than its beginning; all of it is in the title.
  const cut = (text, most) => text.length <= most ? text : text.slice(0, 7) + "\u2026" + text.slice(8 - most);
  const named = (text, most) => {
    const element = make("bdi", most ? cut(text, most) : text, "name");
    element.title = text;
    return element;
  };
  const className = (label) => label < 0 ? "not known" : names[label] || "class " + label;
  const answer = (number) => number < 0 ? "no finite answer" : className(number);
  const percent = (share) => share < 0 ? "not finite" : (share / 100).toFixed(2) + " %";
  const points = (value) => value === null ? "" : (value > 0 ? "+" : value < 0 ? "\u2212" : "") + (Math.abs(value) / 100).toFixed(2);

  function outcome(row) {
    const label = data.label[row];
    if (label < 0) return 4;
    const before = data.before[row] === label, after = data.after[row] === label;
    return after ? (before ? 2 : 0) : (before ? 1 : 3);
  }
  // Confidence counts as positive where the prediction is right and as negative where it is wrong.
  function change(row) {
    const label = data.label[row], before = data.sureBefore[row], after = data.sureAfter[row];
    if (label < 0 || before < 0 || after < 0) return null;
    return (data.after[row] === label ? after : -after) - (data.before[row] === label ? before : -before);
  }

  function open(number) {
    state.run = number;
    const run = about.runs[number];
    data = once("run-" + number);
    const set = once("images-" + run.images);
    paths = set.paths;
    lower = set.lower = set.lower || paths.map((path) => path.toLowerCase());
    pictures = set.pictures;
    views = once("views-" + number) || {};
    names = run.names;
    data.outcome = data.outcome || Array.from(data.label, (_, row) => outcome(row));
    data.change = data.change || Array.from(data.label, (_, row) => change(row));
    data.late = data.late || new Set(data.fallback);
    counts = [0, 0, 0, 0, 0];
    for (const each of data.outcome) counts[each] += 1;
    const choices = $("outcome");
    for (let place = 0; place < 5; place += 1) {
      choices.options[place + 1].textContent = OUTCOMES[place] + " (" + counts[place].toLocaleString("en") + ")";
    }
    const classes = $("class"), before = classes.value;
    const there = Array.from(new Set(data.label)).filter((label) => label >= 0);
    there.sort((a, b) => className(a) < className(b) ? -1 : className(a) > className(b) ? 1 : a - b);
    classes.replaceChildren(new Option("all", ""), ...there.map((label) => new Option(className(label), String(label))));
    classes.value = there.includes(Number(before)) && before !== "" ? before : "";
    const shown = data.label.length < run.n ? "Of " + run.n.toLocaleString("en") + " images the page holds " +
      data.label.length.toLocaleString("en") + ": those won and lost first, then an even choice of the others. " : "";
    $("about-run").textContent = shown + run.note;
    state.chosen = NONE;
    filter();
  }

  function filter() {
    const wanted = $("outcome").value, label = $("class").value, text = $("search").value.trim().toLowerCase();
    const below = $("low").checked ? 100 * Number($("below").value) : null;
    const seen = $("pictured").checked;
    const matching = new Map();
    const matches = (number) => {
      if (!matching.has(number)) matching.set(number, className(number).toLowerCase().includes(text));
      return matching.get(number);
    };
    const found = [];
    for (let row = 0; row < data.label.length; row += 1) {
      if (wanted !== "" && data.outcome[row] !== Number(wanted)) continue;
      if (label !== "" && data.label[row] !== Number(label)) continue;
      if (below !== null && !(data.sureAfter[row] < below)) continue;
      if (seen && !(data.image[row] in pictures)) continue;
      if (text && !lower[data.image[row]].includes(text) && !matches(data.label[row]) &&
          !matches(data.before[row]) && !matches(data.after[row])) continue;
      found.push(row);
    }
    state.order = found;
    state.page = 0;
    arrange();
  }

  function arrange() {
    const by = state.sort, sign = state.down ? -1 : 1;
    const text = (row) => by === "image" ? lower[data.image[row]] : className(data[by][row]);
    const number = { index: (row) => data.index[row], outcome: (row) => data.outcome[row],
      change: (row) => data.change[row] === null ? NaN : Math.abs(data.change[row]),
      sureBefore: (row) => data.sureBefore[row], sureAfter: (row) => data.sureAfter[row] }[by];
    const keys = new Map(state.order.map((row) => [row, number ? number(row) : text(row)]));
    state.order.sort((a, b) => {
      const x = keys.get(a), y = keys.get(b);
      // What has no value comes last, either way round.
      if (x !== x || y !== y) return (x !== x) - (y !== y) || a - b;
      return x < y ? -sign : x > y ? sign : a - b;
    });
    for (const button of document.querySelectorAll("#cases th button")) {
      const mine = button.value === by;
      button.parentElement.setAttribute("aria-sort", !mine ? "none" : state.down ? "descending" : "ascending");
      button.dataset.mark = mine ? (state.down ? " \u25be" : " \u25b4") : "";
      button.textContent = button.dataset.title + button.dataset.mark;
    }
    show();
  }

  function show() {
    const size = Number($("size").value), pages = Math.max(1, Math.ceil(state.order.length / size));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    const rows = state.order.slice(state.page * size, (state.page + 1) * size);
    $("rows").replaceChildren(...rows.map(line));
    const first = rows.length ? state.page * size + 1 : 0;
    $("count").textContent = state.order.length.toLocaleString("en") + " of " + data.label.length.toLocaleString("en") +
      " images; shown: " + first.toLocaleString("en") + " to " + (first + rows.length - (rows.length ? 1 : 0)).toLocaleString("en");
    $("page").textContent = "Page " + (state.page + 1).toLocaleString("en") + " of " + pages.toLocaleString("en");
    $("first").disabled = $("back").disabled = state.page === 0;
    $("forward").disabled = $("last").disabled = state.page >= pages - 1;
    if (!state.order.includes(state.chosen)) state.chosen = state.order.length ? state.order[state.page * size] : NONE;
    choose(state.chosen);
  }

  function line(row) {
    const element = make("tr");
    element.dataset.row = String(row);
    const image = data.image[row], first = make("td");
    const button = make("button", pictures[image] && pictures[image].address ? undefined : "show");
    button.type = "button";
    button.setAttribute("aria-label", "Show image number " + data.index[row]);
    if (pictures[image] && pictures[image].address) {
      const picture = make("img");
      picture.src = pictures[image].address;
      picture.alt = "";
      button.append(picture);
    }
    first.append(button);
    const cell = (text, share) => {
      const found = make("td");
      found.append(named(text));
      if (share !== undefined) found.append(make("span", percent(share), "share"));
      return found;
    };
    const name = make("td");
    name.append(named(paths[image] || "(no name)", 15), make("span", "number " + data.index[row], "share"));
    const kind = data.outcome[row];
    element.append(first, name, cell(className(data.label[row])), cell(answer(data.before[row]), data.sureBefore[row]),
      cell(answer(data.after[row]), data.sureAfter[row]), make("td", OUTCOMES[kind], STYLES[kind]),
      make("td", points(data.change[row]), "number"));
    element.addEventListener("click", () => choose(row, true));
    return element;
  }

  function bars(title, classes, shares, row, label) {
    const list = make("ol", undefined, "bars");
    const width = data.listed;
    for (let place = row * width; place < (row + 1) * width; place += 1) {
      if (classes[place] < 0) continue;
      const item = make("li", undefined, classes[place] === label ? "true" : "");
      const bar = make("span", undefined, "bar");
      bar.style.width = Math.max(0, shares[place]) / 100 + "%";
      const name = named(className(classes[place]));
      item.append(bar, name, make("span", percent(shares[place]) + (classes[place] === label ? ", the label" : "")));
      list.append(item);
    }
    return [make("h4", title), list];
  }

  function choose(row, byUser) {
    state.chosen = row;
    for (const each of $("rows").children) each.setAttribute("aria-selected", String(Number(each.dataset.row) === row));
    const panel = $("case");
    if (row === NONE) {
      panel.replaceChildren(make("h3", "No image"), make("p", "No image has what the filters ask for."));
      return;
    }
    const image = data.image[row], label = data.label[row], kind = data.outcome[row];
    const head = make("h3");
    head.tabIndex = -1;
    head.append(named(paths[image] || "(no name)"));
    const place = state.order.indexOf(row);
    const pager = make("div", undefined, "pager");
    for (const [text, other] of [["Previous image", place - 1], ["Next image", place + 1]]) {
      const button = make("button", text);
      button.type = "button";
      button.disabled = other < 0 || other >= state.order.length;
      button.addEventListener("click", () => {
        state.chosen = state.order[other];
        state.page = Math.floor(other / Number($("size").value));
        show();
        const again = Array.from(panel.querySelectorAll("button")).find((each) => each.textContent === text && !each.disabled);
        if (again) again.focus();
      });
      pager.append(button);
    }
    const parts = [head, pager];
    const found = pictures[image];
    if (found && found.address) {
      const picture = make("img", undefined, "picture");
      picture.src = found.address;
      picture.alt = "Image number " + data.index[row];
      parts.push(picture);
    } else {
      parts.push(make("p", found ? "No picture: " + found.problem + "." : "This image's picture is not in the page (--images).", "note"));
    }
    const facts = make("p");
    facts.append(make("span", OUTCOMES[kind], STYLES[kind]), document.createTextNode("; label: "), named(className(label)));
    if (data.late.has(row)) facts.append(document.createTextNode("; not adapted, as adaptation was not finite"));
    parts.push(facts);
    parts.push(...bars("Before", data.listBefore, data.shareBefore, row, label));
    parts.push(...bars("After", data.listAfter, data.shareAfter, row, label));
    const sheet = views[image];
    if (sheet) {
      parts.push(make("h4", "Views"));
      if (sheet.address) {
        const picture = make("img", undefined, "sheet");
        picture.src = sheet.address;
        picture.alt = sheet.about;
        parts.push(picture);
      }
      parts.push(make("p", sheet.about, "note"));
    }
    panel.replaceChildren(...parts);
    if (byUser) {
      head.focus({ preventScroll: true });
      panel.scrollIntoView({ block: "nearest" });
    }
  }

  const runs = $("run");
  runs.replaceChildren(...about.runs.map((run, number) => new Option(run.title, String(number))));
  runs.addEventListener("change", () => open(Number(runs.value)));
  for (const id of ["outcome", "class", "low", "below", "pictured"]) $(id).addEventListener("change", filter);
  let waiting;
  $("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 150); });
  $("size").addEventListener("change", show);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => setTimeout(() => { runs.value = String(state.run); filter(); }));
  for (const [id, to] of [["first", () => 0], ["back", () => state.page - 1], ["forward", () => state.page + 1], ["last", () => Infinity]]) {
    $(id).addEventListener("click", () => { state.page = to(); state.chosen = NONE; show(); });
  }
  for (const button of document.querySelectorAll("#cases th button")) {
    button.dataset.title = button.textContent;
    button.addEventListener("click", () => {
      state.down = state.sort === button.value ? !state.down : button.value === "change";
      state.sort = button.value;
      state.page = 0;
      arrange();
    });
  }
  runs.value = String(about.first);
  open(about.first);
  document.documentElement.dataset.script = String(Math.round(performance.now() - started));
  requestAnimationFrame(() => requestAnimationFrame(() => {
    document.documentElement.dataset.ready = String(Math.round(performance.now()));
  }));
}());
