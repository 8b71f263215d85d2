"use strict";
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const still = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: false };
  const moving = {
    displaylogo: false,
    responsive: true,
    modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]],
  };

  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // A colour that starts with "@" is a name of the style sheet's palette; only fields named …color are looked at.
  const painted = (value, key) => {
    if (Array.isArray(value)) return value.map((item) => painted(item, key));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, painted(item, name)]));
    }
    const named = typeof value === "string" && value.startsWith("@") && /color$/i.test(key);
    return named ? variable("--" + value.slice(1)) : value;
  };

  const merged = (base, over) => {
    const result = { ...base };
    for (const [key, value] of Object.entries(over)) {
      const both = value && typeof value === "object" && !Array.isArray(value) && base[key];
      result[key] = both ? merged(base[key], value) : value;
    }
    return result;
  };

  const axis = () => ({
    automargin: true,
    gridcolor: variable("--grid"),
    zerolinecolor: variable("--muted"),
    zerolinewidth: 1.5,
    linecolor: variable("--grid"),
    tickfont: { color: variable("--ink") },
    title: { font: { color: variable("--muted"), size: 13 }, standoff: 12 },
  });

  const frame = () => ({
    font: { family: variable("--font"), size: 13, color: variable("--ink") },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 8, r: 12, t: 12, b: 44 },
    showlegend: false,
    dragmode: false,
    hovermode: "closest",
    uirevision: "kept", // a redraw keeps the zoom
    hoverlabel: {
      bgcolor: variable("--card"),
      bordercolor: variable("--grid"),
      font: { family: variable("--font"), size: 12, color: variable("--ink") },
      align: "left",
      namelength: 0,
    },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: variable("--pool"), activecolor: variable("--subset") },
    xaxis: axis(),
    yaxis: axis(),
  });

  // The points of the group that the reader marks, as rings above the others.
  let marked = null;
  const marks = (chart) => {
    if (chart.name !== "map" || !marked) return [];
    const { codes } = chart.groups[marked.field];
    const pick = (name) => chart.data.flatMap((trace, part) => trace[name].filter((_, n) => codes[part][n] === marked.code));
    const ring = { symbol: "circle-open", size: 9, color: "@bad", line: { width: 1.4, color: "@bad" } };
    return [
      { type: "scatter", mode: "markers", name: "marked", x: pick("x"), y: pick("y"), marker: ring, hoverinfo: "skip" },
    ];
  };

  const draw = (chart) => {
    const place = document.getElementById("chart-" + chart.name);
    const layout = merged(frame(), painted(chart.layout, ""));
    if (layout.dragmode === false) layout.xaxis.fixedrange = layout.yaxis.fixedrange = true;
    // Labels behind bars need a larger share of a narrow chart.
    const labelled = chart.data.some((trace) => trace.textposition === "outside");
    if (labelled && place.clientWidth < 600) layout.xaxis.range = [0, layout.xaxis.range[1] * 1.25];
    return Plotly.react(place, painted([...chart.data, ...marks(chart)], ""), layout, chart.name === "map" ? moving : still);
  };

  const offerMarks = (chart) => {
    const select = document.getElementById("map-marks");
    for (const [field, { names }] of Object.entries(chart.groups)) {
      const group = document.createElement("optgroup");
      group.label = field;
      names.forEach((name, code) => {
        const option = document.createElement("option");
        option.textContent = name;
        option.value = JSON.stringify({ field, code });
        group.append(option);
      });
      select.append(group);
    }
    select.parentElement.hidden = select.length < 2;
    select.addEventListener("change", () => {
      marked = select.value ? JSON.parse(select.value) : null;
      draw(chart);
    });
  };

  const drawAll = () => charts.forEach(draw);
  drawAll();
  charts.filter((chart) => chart.name === "map").forEach(offerMarks);
  dark.addEventListener("change", drawAll);
})();
