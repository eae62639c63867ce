"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const finger = matchMedia("(pointer: coarse)").matches;
  const page = JSON.parse(document.getElementById("charts").textContent);
  const drawn = new Set();
  const PAPER = 680;  // px: what fits on A4 and on letter paper
  let printing = false;

  // Figures come in the colors of a light page; on a dark one each color has its counterpart.
  const recolored = (key, value) => (!key.endsWith("color") ? value
    : Array.isArray(value) ? value.map((color) => page.dark[color] || color) : page.dark[value] || value);
  const themed = (figure) => (printing || !dark.matches
    ? figure : JSON.parse(JSON.stringify(figure), recolored));

  function draw(figure) {
    const place = document.getElementById(figure.id);
    const { data, layout } = structuredClone(themed(figure));
    layout.dragmode = finger ? false : "zoom";
    if (printing) layout.width = place.closest(".wide, .large") ? PAPER : PAPER / 2 - 32;
    for (const name of ["xaxis", "yaxis"]) {  // a zoom outlives a change of colors
      if (drawn.has(figure.id) && place.layout[name].autorange === false) {
        layout[name].autorange = false;
        layout[name].range = place.layout[name].range;
      }
    }
    drawn.add(figure.id);
    Plotly.react(place, data, layout, page.config);
  }

  // Charts are drawn when they come near the window, so that a page of many runs opens at once.
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      draw(page.figures.find((figure) => figure.id === entry.target.id));
    }
  }, { rootMargin: "400px" });

  const moves = {
    "+": [0.25, -0.25], "=": [0.25, -0.25], "-": [-0.5, 0.5], ArrowLeft: [-0.2, -0.2], ArrowRight: [0.2, 0.2],
  };
  for (const figure of page.figures) {
    const place = document.getElementById(figure.id);
    near.observe(place);
    place.addEventListener("keydown", (event) => {
      if (event.target !== place || figure.data[0].type === "heatmap" || event.ctrlKey || event.metaKey) return;
      if (event.key === "0") {
        Plotly.relayout(place, { "xaxis.autorange": true, "yaxis.autorange": true });
      } else if (event.key in moves) {
        const [low, high] = place.layout.xaxis.range;
        const [left, right] = moves[event.key];
        const width = high - low;
        Plotly.relayout(place, { "xaxis.range": [low + left * width, high + right * width] });
      } else {
        return;
      }
      event.preventDefault();
    });
  }

  const redraw = () => page.figures.filter((figure) => drawn.has(figure.id)).forEach(draw);
  dark.addEventListener("change", redraw);

  // Paper shows everything: what is folded is opened, and closed again afterwards.
  let opened = [];
  addEventListener("beforeprint", () => {
    printing = true;
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((part) => { part.open = true; });
    page.figures.forEach(draw);
  });
  addEventListener("afterprint", () => {
    printing = false;
    opened.forEach((part) => { part.open = false; });
    redraw();
  });

  // A number sorts as a number, words as words, and what is empty comes last either way.
  function sort(table, column, down) {
    const value = (row) => {
      const cell = row.cells[column];
      return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
    };
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = typeof a === "number" && typeof b === "number"
        ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
      return down ? -order : order;
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b))));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(table, column, down);
    }));
  }

  for (const part of document.querySelectorAll(".over-time")) {
    const slider = part.querySelector("input");
    const frames = [...part.querySelectorAll(".frame")];
    const caption = part.querySelector("output");
    const play = part.querySelector(".play");
    let timer = 0;
    const show = () => {
      const chosen = frames[Number(slider.value)];
      const { title } = chosen.querySelector("img").dataset;
      frames.forEach((frame) => { frame.hidden = frame !== chosen; });
      caption.textContent = title;
      slider.setAttribute("aria-valuetext", title);
    };
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      play.textContent = "Play";
      play.setAttribute("aria-pressed", "false");
    };
    slider.addEventListener("input", () => { stop(); show(); });
    play.addEventListener("click", () => {
      if (timer) { stop(); return; }
      if (Number(slider.value) === frames.length - 1) slider.value = 0;
      play.textContent = "Pause";
      play.setAttribute("aria-pressed", "true");
      show();
      timer = setInterval(() => {
        if (Number(slider.value) === frames.length - 1) { stop(); return; }
        slider.value = Number(slider.value) + 1;
        show();
      }, 700);
    });
    show();  // a browser may have kept the slider's place over a reload
  }

  for (const button of document.querySelectorAll(".zoom")) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    });
  }

  for (const link of document.querySelectorAll("a[data-open]")) {
    link.addEventListener("click", () => {
      const target = document.getElementById(decodeURIComponent(link.hash.slice(1)));
      if (target) target.closest("details").open = true;
    });
  }
})();
