"use strict";
// Two things to touch: values under the pointer in every figure, and the kernels entry by entry. The page stands without.
(() => {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("aria-hidden", "true");
  document.body.append(tip);
  const hide = () => { tip.style.display = "none"; };

  const show = (event, title, rows) => {
    tip.replaceChildren();
    const head = document.createElement("b");
    head.textContent = title;
    tip.append(head);
    for (const [name, value] of rows) {
      const line = document.createElement("div");
      line.textContent = name ? `${name}: ${value}` : value;
      tip.append(line);
    }
    tip.style.display = "block";
    const box = tip.getBoundingClientRect(), room = document.documentElement.clientWidth;
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, room - box.width - 4))}px`;
    const above = event.clientY - box.height - 14;
    tip.style.top = `${above > 4 ? above : event.clientY + 18}px`;
  };

  for (const svg of document.querySelectorAll("svg[data-marks]")) {
    const series = JSON.parse(svg.dataset.marks);
    if (!series.length) continue;
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
      const away = (one, point) => (one.by === "x" ? Math.abs(point[0] - x) : Math.abs(point[1] - y));
      const near = series.map((one) => one.points.reduce((a, b) => (away(one, b) < away(one, a) ? b : a)));
      const nearest = Math.min(...series.map((one, i) => away(one, near[i])));
      if (nearest > 0.08) return hide();
      const rows = series.map((one, i) => [one, near[i]]).filter(([one, point]) => away(one, point) <= nearest + 0.004);
      show(event, rows[0][1][2], rows.map(([one, point]) => [one.name, point[3]]));
    });
    svg.addEventListener("pointerleave", hide);
  }
  addEventListener("scroll", hide, { passive: true });

  const source = document.getElementById("page-data"), explorer = document.getElementById("explorer");
  if (!source || !source.textContent.trim() || !explorer) return;
  const data = JSON.parse(source.textContent), n = data.classes.length;
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const palette = data.palette.match(/../g).map((digits) => parseInt(digits, 16));
  const at = (i, j) => (i >= j ? (i * (i + 1)) / 2 + j : (j * (j + 1)) / 2 + i);
  const kernels = data.kernels.map((stage) => {
    const fine = bytes(stage.values), values = new Uint16Array(fine.buffer, 0, fine.length / 2);
    const colors = Object.fromEntries(Object.keys(data.names).map((k) => [k, stage[k] && bytes(stage[k].colors)]));
    return { colors, value: (i, j) => stage.low + (values[at(i, j)] / 65535) * (stage.high - stage.low) };
  });
  const gates = data.gates && data.gates.stages.map((layers) => layers.map(bytes));
  const ones = Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll("0", "").length);

  // How many units of a layer are open for both samples.
  const overlap = (stage, layer, i, j) => {
    const packed = gates[stage][layer], width = packed.length / n;
    let count = 0;
    for (let b = 0; b < width; b++) count += ones[packed[i * width + b] & packed[j * width + b]];
    return count;
  };

  const part = (name) => explorer.querySelector(`[data-part="${name}"]`);
  const map = part("map"), slider = part("stage"), said = part("said"), overlaps = part("overlaps");
  const state = { kernel: Object.keys(data.names)[0], stage: data.stages.length - 1, i: n - 1, j: 0 };
  const scale = Math.max(2, Math.round(640 / n)), small = document.createElement("canvas");
  map.width = map.height = n * scale;
  small.width = small.height = n;
  slider.max = data.stages.length - 1;
  slider.value = state.stage;
  if (data.stages.length < 2) part("slide").hidden = true;

  for (const [name, label] of Object.entries(data.names)) {
    const choice = document.createElement("label"), radio = document.createElement("input");
    radio.type = "radio";
    radio.name = "kernel";
    radio.value = name;
    radio.checked = name === state.kernel;
    radio.addEventListener("change", () => { state.kernel = name; draw(); });
    choice.append(radio, ` ${label}`);
    part("kernels").append(choice);
  }

  const sheet = data.images && new Image();
  const picture = (canvas, sample) => {
    if (!sheet) { canvas.hidden = true; return; }
    const { width, height, columns } = data.images, drawing = canvas.getContext("2d");
    [canvas.width, canvas.height] = [width, height];
    const [x, y] = [(sample % columns) * width, Math.floor(sample / columns) * height];
    drawing.drawImage(sheet, x, y, width, height, 0, 0, width, height);
  };

  const few = (value) => Number(value.toPrecision(3)).toString();
  const detail = () => {
    const { i, j, stage } = state, kernel = kernels[stage], value = kernel.value(i, j);
    picture(part("first"), i);
    picture(part("second"), j);
    part("first-class").textContent = `class ${data.classes[i]}`;
    part("second-class").textContent = `class ${data.classes[j]}`;
    const size = Math.sqrt(kernel.value(i, i) * kernel.value(j, j));
    said.textContent = `H = ${few(value)}` + (size > 0 ? `, cosine ${(value / size).toFixed(3)}` : "");
    overlaps.replaceChildren();
    if (!gates) return;
    data.gates.units.forEach((units, layer) => {
      const count = overlap(stage, layer, i, j), row = document.createElement("div");
      const bar = document.createElement("span"), text = document.createElement("span");
      bar.className = "share";
      bar.style.setProperty("--share", count / units);
      text.textContent = `layer ${layer + 1}: ${count} of ${units} open for both`;
      row.append(text, bar);
      overlaps.append(row);
    });
  };

  const draw = () => {
    const colors = kernels[state.stage].colors[state.kernel], drawing = map.getContext("2d");
    const pixels = small.getContext("2d"), image = pixels.createImageData(n, n);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        const color = colors ? 3 * colors[at(i, j)] : 3 * 127, place = 4 * (i * n + j);
        for (let c = 0; c < 3; c++) image.data[place + c] = palette[color + c];
        image.data[place + 3] = 255;
      }
    }
    pixels.putImageData(image, 0, 0);
    drawing.imageSmoothingEnabled = false;
    drawing.drawImage(small, 0, 0, map.width, map.height);
    drawing.fillStyle = data.starts.length > 15 ? "rgba(31, 35, 40, .3)" : "#1f2328";
    const line = Math.max(2, Math.ceil((1.5 * map.width) / (map.clientWidth || map.width)));  // one pixel of the page
    for (const start of data.starts.slice(1)) {
      drawing.fillRect(0, start * scale - line / 2, map.width, line);
      drawing.fillRect(start * scale - line / 2, 0, line, map.height);
    }
    drawing.lineWidth = line;
    drawing.strokeStyle = "#000";
    drawing.strokeRect(state.j * scale - 2, state.i * scale - 2, scale + 4, scale + 4);
    const stage = `${data.stages[state.stage]}, training accuracy ${data.accuracies[state.stage]}`;
    part("name").textContent = stage;
    slider.setAttribute("aria-valuetext", stage);
    const stages = data.kernels[state.stage][state.kernel], bound = stages ? few(stages.bound) : "0";
    part("low").textContent = `−${bound}`;
    part("high").textContent = `+${bound}`;
    map.setAttribute("aria-label", `${data.names[state.kernel]}, centred, between ${n} samples at ${stage}`);
    detail();
  };

  const point = (event) => {
    const box = map.getBoundingClientRect(), inside = (share) => Math.max(0, Math.min(n - 1, Math.floor(share * n)));
    state.j = inside((event.clientX - box.left) / box.width);
    state.i = inside((event.clientY - box.top) / box.height);
    draw();
  };
  map.addEventListener("pointermove", point);
  map.addEventListener("pointerdown", point);
  map.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    state.i = Math.max(0, Math.min(n - 1, state.i + step[0]));
    state.j = Math.max(0, Math.min(n - 1, state.j + step[1]));
    draw();
  });
  slider.addEventListener("input", () => { state.stage = Number(slider.value); draw(); });
  const begin = () => { explorer.hidden = false; draw(); };
  if (sheet) {
    sheet.addEventListener("load", begin);
    sheet.src = `data:image/png;base64,${data.images.png}`;
  } else begin();
})();
