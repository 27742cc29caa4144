"use strict";
/* The slide to pan and zoom (OpenSeadragon) with spots drawn over it on a canvas. */
class SlideViewer {
  constructor(element, { width, mpp, onSpot, onHover, onKey }) {
    this.element = element;
    this.width = width;
    this.mpp = mpp;
    this.groups = [];
    this.ring = null;
    this.canvas = dom.make("canvas", { class: "spots", "aria-hidden": "true" });
    this.barLine = dom.make("div");
    this.barText = dom.make("span");
    this.bar = dom.make("div", { class: "bar" }, this.barLine, this.barText);
    this.handlers = { onSpot, onHover, onKey };
  }

  /* Resolves when the picture is there, or cannot be. */
  open(tileSource) {
    this.view = OpenSeadragon({
      element: this.element, tileSources: tileSource, drawer: "canvas", showNavigationControl: false,
      animationTime: 0.3, gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true }, maxZoomPixelRatio: 8,
      visibilityRatio: 0.3, imageLoaderLimit: 4, timeout: 60000,
    });
    this.element.append(this.canvas, this.bar);
    for (const name of ["update-viewport", "animation", "resize", "open"]) this.view.addHandler(name, () => this.draw());
    this.view.addHandler("canvas-click", event => {
      if (event.quick) this.handlers.onSpot(this.toSlide(event.position), this.reach());
    });
    this.view.addHandler("canvas-key", event => this.handlers.onKey(event));
    this.element.addEventListener("pointermove", event => {
      const box = this.element.getBoundingClientRect();
      this.handlers.onHover(this.toSlide({ x: event.clientX - box.left, y: event.clientY - box.top }), this.reach());
    });
    this.view.canvas.setAttribute("role", "application");
    this.view.canvas.setAttribute("aria-label", "Map: arrow keys go from spot to spot, plus and minus zoom, 0 shows the whole slide");
    return new Promise(resolve => {
      this.view.addOnceHandler("open", resolve);
      this.view.addOnceHandler("open-failed", resolve);
    });
  }

  /* Screen pixels per slide pixel, and the screen position of the slide's corner. */
  place() {
    const viewport = this.view.viewport;
    const corner = viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
    const right = viewport.pixelFromPoint(new OpenSeadragon.Point(1, 0), true);
    return { scale: (right.x - corner.x) / this.width, x: corner.x, y: corner.y };
  }

  toSlide(position) {
    const place = this.place();
    return { x: (position.x - place.x) / place.scale, y: (position.y - place.y) / place.scale };
  }

  /* How far from a spot's centre a click still means it, in slide pixels. */
  reach() { return 12 / this.place().scale; }

  visible() {
    const a = this.toSlide({ x: 0, y: 0 });
    const b = this.toSlide({ x: this.element.clientWidth, y: this.element.clientHeight });
    return { x0: a.x, y0: a.y, x1: b.x, y1: b.y };
  }

  zoom(factor) {
    this.view.viewport.zoomBy(factor);
    this.view.viewport.applyConstraints();
  }

  home() { this.view.viewport.goHome(); }

  /* Bring the spots into view, with a margin, where the tissue is a small part of the slide. */
  fit(box, diameter) {
    const side = 1 / this.width, margin = Math.max(diameter, 0.05 * Math.max(box.x1 - box.x0, box.y1 - box.y0));
    this.view.viewport.fitBounds(new OpenSeadragon.Rect(
      (box.x0 - margin) * side, (box.y0 - margin) * side, (box.x1 - box.x0 + 2 * margin) * side, (box.y1 - box.y0 + 2 * margin) * side), true);
  }

  /* Groups of spots: {x, y, codes (0 to 255, -1 for unknown), diameter, square}. */
  show(groups, palette, opacity) {
    this.groups = groups.map(group => ({ ...group, byCode: byCode(group.codes) }));
    this.palette = palette;
    this.opacity = opacity;
    this.draw();
  }

  select(spot) { this.ring = spot; this.draw(); }

  reveal(spot) {
    const view = this.visible();
    if (spot.x > view.x0 && spot.x < view.x1 && spot.y > view.y0 && spot.y < view.y1) return;
    this.view.viewport.panTo(new OpenSeadragon.Point(spot.x / this.width, spot.y / this.width));
  }

  draw() {
    if (!this.view || !this.view.viewport) return;
    const ratio = window.devicePixelRatio || 1, width = this.element.clientWidth, height = this.element.clientHeight;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
    }
    const pen = this.canvas.getContext("2d"), place = this.place();
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    for (const group of this.groups) this.drawGroup(pen, group, place, width, height);
    if (this.ring) drawRing(pen, this.ring, place);
    this.drawBar(place.scale);
  }

  drawGroup(pen, group, place, width, height) {
    const radius = Math.max(1.5, group.diameter * place.scale / 2);
    pen.globalAlpha = this.opacity;
    for (const [code, spots] of group.byCode) {
      pen.beginPath();
      for (const i of spots) {
        const x = place.x + group.x[i] * place.scale, y = place.y + group.y[i] * place.scale;
        if (x < -radius || y < -radius || x > width + radius || y > height + radius) continue;
        if (group.square) pen.rect(x - radius, y - radius, 2 * radius, 2 * radius);
        else { pen.moveTo(x + radius, y); pen.arc(x, y, radius, 0, 2 * Math.PI); }
      }
      if (code < 0) { pen.strokeStyle = "#555"; pen.lineWidth = 1; pen.stroke(); }
      else { pen.fillStyle = this.palette[code]; pen.fill(); }
    }
    pen.globalAlpha = 1;
  }

  drawBar(scale) {
    if (!this.mpp) { this.barLine.style.width = "0"; this.barText.textContent = "no pixel size"; return; }
    const perPixel = this.mpp / scale;  // um a screen pixel
    const most = 130 * perPixel, power = 10 ** Math.floor(Math.log10(most));
    const length = [5, 2, 1].map(step => step * power).find(value => value <= most);
    this.barLine.style.width = `${length / perPixel}px`;
    this.barText.textContent = length >= 1000 ? `${length / 1000} mm` : `${Number(length.toPrecision(3))} µm`;
  }
}

function byCode(codes) {
  const groups = new Map();
  codes.forEach((code, i) => {
    if (!groups.has(code)) groups.set(code, []);
    groups.get(code).push(i);
  });
  return groups;
}

function drawRing(pen, spot, place) {
  const x = place.x + spot.x * place.scale, y = place.y + spot.y * place.scale;
  for (const [colour, width] of [["#ffffff", 5], ["#000000", 2.5]]) {
    pen.beginPath();
    pen.arc(x, y, Math.max(7, spot.diameter * place.scale / 2 + 3), 0, 2 * Math.PI);
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.stroke();
  }
}
