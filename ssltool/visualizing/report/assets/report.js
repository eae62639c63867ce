"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const finger = matchMedia("(pointer: coarse)").matches;
  // Okabe and Ito 2008, told apart with any color vision; lighter ones on a dark page.
  const colors = {
    light: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b37400", "#56b4e9", "#000000"],
    dark: ["#56b4e9", "#f0884a", "#2fc79a", "#e0a0c4", "#e6b84c", "#8fb8ff", "#ffffff"],
  };
  const dashes = ["solid", "dot", "dashdot", "longdash"];
  let printing = false;

  const shade = () => {
    const light = printing || !dark.matches;
    return light
      ? { ink: "#1d2129", soft: "#59616e", grid: "#d9dde4", chance: "#b34700", panel: "#f5f6f8", of: colors.light }
      : { ink: "#e6e9ee", soft: "#a3acb9", grid: "#353c47", chance: "#f0a26b", panel: "#1d2128", of: colors.dark };
  };

  const axis = (look, more) => ({
    gridcolor: look.grid, zerolinecolor: look.grid, linecolor: look.grid, tickfont: { color: look.soft, size: 11 },
    automargin: true, ...more,
  });

  const label = (text, look) => ({ text, font: { color: look.soft, size: 12 }, standoff: 8 });

  function drawn(chart, width) {
    const look = shade();
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 44, r: 12, t: 28, b: 40 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: look.soft, activecolor: look.ink },
      font: { family: "system-ui, sans-serif", color: look.ink }, dragmode: finger ? false : "zoom",
      hoverlabel: { bgcolor: look.panel, bordercolor: look.soft, font: { color: look.ink }, namelength: -1 },
    };
    if (chart.kind === "heat") {
      // Long names are cut on the axes, not in the hover, and margins are set, not searched for.
      const short = (name) => (name.length > 16 ? `${name.slice(0, 15)}\u2026` : name);
      const room = (names) => 40 + 5.5 * Math.max(...names.map((name) => short(name).length));
      const names = (all, every = 1) => ({
        type: "category", showgrid: false, automargin: false, tickmode: "array",
        tickvals: all.filter((_, i) => i % every === 0), ticktext: all.filter((_, i) => i % every === 0).map(short),
        tickfont: { color: look.soft, size: all.length > 20 ? 8 : 11 },
      });
      const every = Math.max(1, Math.ceil((9 * chart.columns.length) / (width - room(chart.rows) - 70)));
      layout.margin = { l: room(chart.rows), r: 12, t: 28, b: room(chart.columns) };
      layout.xaxis = axis(look, { ...names(chart.columns, every), title: label(chart.column_label, look), tickangle: -90 });
      layout.yaxis = axis(look, {
        ...names(chart.rows), title: label(chart.row_label, look), autorange: "reversed",
      });
      const data = [{
        type: "heatmap", z: chart.z, x: chart.columns, y: chart.rows, colorscale: "Viridis",
        colorbar: { thickness: 10, tickfont: { color: look.soft, size: 11 }, outlinewidth: 0 },
        hovertemplate: `${chart.row_label} %{y}<br>${chart.column_label} %{x}<br>%{z}<extra></extra>`,
      }];
      return { data, layout };
    }
    const many = chart.series.length > 1;
    const data = chart.series.map((series) => ({
      type: "scatter", name: series.name, x: series.x, y: series.y,
      mode: series.x.length < 30 ? "lines+markers" : "lines", marker: { size: 6 },
      line: {
        color: look.of[series.color % look.of.length], width: 2,
        dash: dashes[Math.floor(series.color / look.of.length) % dashes.length],
      },
      hovertemplate: `<b>%{y:.4~g}</b><extra>${many ? series.name : ""}</extra>`,
    }));
    layout.showlegend = many;
    layout.hovermode = "x unified";
    layout.legend = { orientation: "h", yref: "container", y: 0, yanchor: "bottom", font: { color: look.ink, size: 12 } };
    layout.xaxis = axis(look, {
      title: label(chart.x_label, look), type: chart.log_x ? "log" : "-",
      unifiedhovertitle: { text: `${chart.x_label} %{x}` },
    });
    layout.yaxis = axis(look, {});
    if (chart.log_x) Object.assign(layout.xaxis, { tickmode: "array", tickvals: [...new Set(chart.series.flatMap((s) => s.x))] });
    if (typeof (chart.series[0] || { x: [0] }).x[0] === "string") layout.xaxis.type = "category";
    // Invisible points on the dashed lines keep them inside the axis, however far from the curve they are.
    const first = chart.series.length ? chart.series[0].x[0] : 0;
    const chanceColor = (line) => (line.color === null ? look.chance : look.of[line.color % look.of.length]);
    layout.shapes = chart.chance.map((line) => ({
      type: "line", xref: "paper", x0: 0, x1: 1, y0: line.y, y1: line.y,
      line: { color: chanceColor(line), width: 1.5, dash: "dash" },
    }));
    // More than three would be written over one another; their colors say whose they are.
    layout.annotations = (chart.chance.length > 3 ? [] : chart.chance).map((line, i) => ({
      xref: "paper", x: i % 2 ? 0.02 : 0.98, xanchor: i % 2 ? "left" : "right", y: line.y, yanchor: "bottom",
      text: line.name, showarrow: false, font: { color: chanceColor(line), size: 11 },
    }));
    for (const line of chart.chance) {
      data.push({
        type: "scatter", x: [first], y: [line.y], mode: "markers", marker: { opacity: 0 }, hoverinfo: "skip",
        showlegend: false,
      });
    }
    return { data, layout };
  }

  const charts = JSON.parse(document.getElementById("charts").textContent);
  const config = {
    responsive: true, displaylogo: false,
    modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],  // none that leads outside
  };
  const seen = new Set();

  function draw(chart) {
    const place = document.getElementById(chart.id);
    if (chart.kind === "heat" && chart.rows.length > 16) {  // a line for each class
      place.style.height = `${200 + 13 * chart.rows.length}px`;
      place.closest(".chart").classList.add("wide");
    }
    const { data, layout } = drawn(chart, Math.max(200, place.clientWidth));
    for (const name of ["xaxis", "yaxis"]) {  // a zoom outlives a change of colors
      if (seen.has(chart.id) && place.layout[name].autorange === false) layout[name].range = place.layout[name].range;
    }
    seen.add(chart.id);
    Plotly.react(place, data, layout, config);
  }

  // Charts are drawn when they come near the window, so that a page of many runs opens at once.
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      draw(charts.find((chart) => chart.id === entry.target.id));
    }
  }, { rootMargin: "400px" });

  for (const chart of charts) {
    const place = document.getElementById(chart.id);
    near.observe(place);
    place.addEventListener("keydown", (event) => {
      const moves = {
        "+": [0.25, -0.25], "=": [0.25, -0.25], "-": [-0.5, 0.5], ArrowLeft: [-0.2, -0.2], ArrowRight: [0.2, 0.2],
      };
      if (event.target !== place || chart.kind === "heat" || event.ctrlKey || event.metaKey) return;
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

  const redraw = () => charts.filter((chart) => seen.has(chart.id)).forEach(draw);
  dark.addEventListener("change", redraw);
  addEventListener("beforeprint", () => { printing = true; charts.forEach(draw); });
  addEventListener("afterprint", () => { printing = false; redraw(); });

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
    const images = [...part.querySelectorAll("img")];
    const said = part.querySelector("output");
    const play = part.querySelector(".play");
    let timer = 0;
    const show = () => {
      const chosen = images[Number(slider.value)];
      images.forEach((image) => { image.hidden = image !== chosen; });
      said.textContent = chosen.dataset.title;
      slider.setAttribute("aria-valuetext", chosen.dataset.title);
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
      if (Number(slider.value) === images.length - 1) slider.value = 0;
      play.textContent = "Pause";
      play.setAttribute("aria-pressed", "true");
      show();
      timer = setInterval(() => {
        if (Number(slider.value) === images.length - 1) { stop(); return; }
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
