"use strict";
// Makes a report answer: its figures to hover, zoom and clicks, its tables to sorting and filtering.
// Without it the page is whole: each figure has its picture, each table its rows.
(() => {
  const NARROW = 600; // px; below it labels beside points would cover each other
  const LINE = 21, ENTRY = 50, LETTER = 7; // px of a legend
  const MOST_UNFILTERED = 7; // rows that need no filter
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const LIGHT = { ink: "#1b1f24", quiet: "#57606a", grid: "#d8dee4", paper: "#ffffff" };
  const DARK = { ink: "#e6edf3", quiet: "#9aa4af", grid: "#30363d", paper: "#161b22" };
  // The house's colours that are too dark for a dark page, and their lighter kin.
  const LIGHTER = {
    "#0072b2": "#4aa8e0", "#5f5f5f": "#a0a6ad", "#4d4d4d": "#9aa0a6", "#d9d9d9": "#3d444d",
    "#009e73": "#2fbf94", "#d55e00": "#ef7f33", "#808080": "#a6a6a6",
  };

  const theme = () => (scheme.matches ? DARK : LIGHT);

  function shade(color) {
    if (typeof color !== "string") return color;
    if (color === "ink") return theme().ink;
    return scheme.matches ? LIGHTER[color] || color : color;
  }

  // Colours in a trace, wherever they stand.
  function painted(value, key) {
    if (Array.isArray(value)) return value.map((each) => painted(each, key));
    if (value !== null && typeof value === "object") {
      const out = {};
      for (const [name, each] of Object.entries(value)) out[name] = painted(each, name);
      return out;
    }
    return ["color", "fillcolor", "fgcolor"].includes(key) ? shade(value) : value;
  }

  // Lines that a legend takes at most: each entry is about as wide as its name.
  function legendLines(data, width) {
    let lines = 0, left = 0;
    for (const trace of data.filter((each) => each.showlegend)) {
      const wide = ENTRY + LETTER * Math.min(trace.name.length, 80);
      lines += wide > left ? 1 : 0;
      left = (wide > left ? width : left) - wide;
    }
    return lines;
  }

  function layoutOf(panel, width) {
    const { ink, quiet, grid, paper } = theme();
    const given = painted(panel.layout, "");
    const axis = (own) => ({
      gridcolor: grid, linecolor: quiet, zeroline: false, automargin: true,
      ticks: "outside", tickcolor: quiet, ...own, title: { ...own.title, standoff: 8 },
    });
    return {
      ...given,
      xaxis: axis({ nticks: Math.max(3, Math.round(width / 90)), ...given.xaxis }),
      yaxis: axis(given.yaxis),
      annotations: width < NARROW ? [] : given.annotations,
      barmode: "overlay", hovermode: "closest", dragmode: "zoom",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 48, r: 12, t: 12, b: 40 },
      font: { family: "system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif",
              size: 12, color: ink },
      hoverlabel: { bgcolor: paper, bordercolor: quiet, font: { color: ink }, namelength: 40 },
      height: given.height + LINE * legendLines(panel.data, width),
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", xref: "container",
                x: 0, maxheight: 1, itemsizing: "constant", bgcolor: "rgba(0,0,0,0)" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: ink },
    };
  }

  const CONFIG = {
    responsive: true, displaylogo: false, scrollZoom: false, displayModeBar: "hover",
    // No more than these: the library has buttons that send a chart's data away.
    modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
    plotlyServerURL: "",
  };

  // What a figure shows, which the page holds packed.
  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(plain).text());
  }

  async function draw(figure) {
    const panels = await unpacked(figure.querySelector("script").textContent);
    const live = document.createElement("div");
    live.className = "live";
    figure.prepend(live);
    const graphs = panels.map((panel) => {
      const cell = document.createElement("div");
      cell.className = `cell${panel.wide ? " whole" : ""}${panel.tall ? " tall" : ""}`;
      if (panel.title) {
        const heading = document.createElement("p");
        heading.className = "panel";
        heading.textContent = panel.title;
        cell.append(heading);
      }
      const graph = document.createElement("div");
      cell.append(graph);
      live.append(cell);
      return graph;
    });
    figure.classList.add("drawn");
    const show = () =>
      graphs.forEach((graph, i) =>
        Plotly.react(graph, painted(panels[i].data, ""), layoutOf(panels[i], graph.clientWidth),
                     CONFIG));
    show();
    scheme.addEventListener("change", show);
    link(graphs.filter((_, i) => panels[i].linked));
    figure.dispatchEvent(new Event("drawn"));
  }

  // Panels over one axis are zoomed together.
  function link(graphs) {
    let busy = false;
    for (const graph of graphs) {
      graph.on("plotly_relayout", (change) => {
        const keys = Object.keys(change).filter((key) => key.startsWith("xaxis."));
        if (busy || !keys.length) return;
        busy = true;
        const same = Object.fromEntries(keys.map((key) => [key, change[key]]));
        const others = graphs.filter((other) => other !== graph);
        Promise.all(others.map((other) => Plotly.relayout(other, same)))
          .finally(() => { busy = false; });
      });
    }
  }

  const keyOf = (cell) =>
    cell.dataset.v === undefined ? cell.textContent.trim().toLowerCase() : Number(cell.dataset.v);

  // Cells without a value come last, whichever way.
  function compare(a, b, turn) {
    const empty = (key) => key === "" || key === "-";
    if (empty(a) || empty(b)) return empty(a) - empty(b);
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return turn * (a < b ? -1 : a > b ? 1 : 0);
  }

  function sortable(table) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      if (!head.textContent.trim()) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...body.rows].map((row) => [keyOf(row.cells[column]), row]);
        rows.sort((a, b) => compare(a[0], b[0], up ? 1 : -1));
        body.append(...rows.map((pair) => pair[1]));
      });
    });
  }

  function filterable(table) {
    const rows = [...table.tBodies[0].rows];
    if (rows.length <= MOST_UNFILTERED) return;
    const label = document.createElement("label");
    const input = document.createElement("input");
    const shown = document.createElement("output");
    label.className = "filter";
    input.type = "search";
    label.append("Filter rows ", input, " ", shown);
    table.closest(".wide").before(label);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        count += row.hidden ? 0 : 1;
      }
      shown.textContent = words.length ? `${count} of ${rows.length}` : "";
    });
  }

  document.querySelectorAll("main table").forEach((table) => {
    sortable(table);
    filterable(table);
  });
  const figures = [...document.querySelectorAll("figure[data-live]")];
  // Drawn when they come near: a long report opens at once.
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((each) => each.isIntersecting)) {
      near.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "800px" });
  const start = () => figures.forEach((figure) => near.observe(figure));

  // Reports of one folder share the library; one that was moved alone keeps its pictures.
  const path = document.body.dataset.library;
  if (path) {
    const script = document.createElement("script");
    script.addEventListener("load", start);
    script.addEventListener("error", () => {
      const missing = document.createElement("p");
      missing.className = "note";
      missing.textContent = `Figures are pictures here: they answer once ${path} stands beside this report, ` +
        "as in the folder that it comes from.";
      document.querySelector("main").prepend(missing);
    });
    script.src = path;
    document.head.append(script);
  } else start();
})();
