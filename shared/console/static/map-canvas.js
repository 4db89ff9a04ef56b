// @ts-check
/** Points on a canvas: drawn by colour, moved, zoomed, and found under the pointer. It knows nothing of texts. */

const CELLS = 64;
const NEAR_PX = 10;
const MARGIN = 0.04;

/**
 * @typedef {{x: Float64Array, y: Float64Array}} Places
 * @typedef {{colours: string[], groups: Int16Array, shown: Uint8Array|null, chosen: number, linked: number[]}} Look
 */

/** A plane of points, and the part of it that a canvas shows. */
export class MapCanvas {
  /** @param {HTMLCanvasElement} canvas @param {Places} places */
  constructor(canvas, places) {
    this.canvas = canvas;
    this.places = places;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    /** @type {Look} */
    this.look = { colours: [], groups: new Int16Array(places.x.length), shown: null, chosen: -1, linked: [] };
    this.frame = 0;
    this.image = new ImageData(1, 1);
    /** The part of the plane that is shown: its left and top, and units a pixel. */
    this.left = 0;
    this.top = 0;
    this.scale = 1;
    /** @type {[number, number, number, number]} left, right, top, bottom of all points */
    this.bounds = boundsOf(places);
    this.grid = this.#index();
    this.fit();
  }

  /** Show everything. */
  fit() {
    const [left, right, top, bottom] = this.bounds;
    const { width, height } = this.#size();
    this.scale = Math.max((right - left) / width, (bottom - top) / height) * (1 + 2 * MARGIN) || 1;
    this.left = (left + right) / 2 - (width / 2) * this.scale;
    this.top = (top + bottom) / 2 - (height / 2) * this.scale;
    this.draw();
  }

  /** @param {Partial<Look>} look */
  set(look) {
    Object.assign(this.look, look);
    this.draw();
  }

  /** @param {number} dx pixels @param {number} dy */
  pan(dx, dy) {
    this.left -= dx * this.scale;
    this.top -= dy * this.scale;
    this.draw();
  }

  /** @param {number} factor less than 1 comes nearer @param {number} [px] what stays where it is @param {number} [py] */
  zoom(factor, px, py) {
    const { width, height } = this.#size();
    const [x, y] = [px ?? width / 2, py ?? height / 2];
    const before = this.scale;
    const most = Math.max(this.bounds[1] - this.bounds[0], this.bounds[3] - this.bounds[2]) || 1;
    this.scale = Math.min(most / 100, Math.max(most / 1e6, this.scale * factor));
    this.left += x * (before - this.scale);
    this.top += y * (before - this.scale);
    this.draw();
  }

  /** The point nearest to a pixel; -1 if none is near. @param {number} px @param {number} py */
  at(px, py) {
    const [x, y] = [this.left + px * this.scale, this.top + py * this.scale];
    const reach = NEAR_PX * this.scale;
    const [fromColumn, fromRow] = this.#cell(x - reach, y - reach);
    const [toColumn, toRow] = this.#cell(x + reach, y + reach);
    let [found, least] = [-1, reach * reach];
    for (let row = fromRow; row <= toRow; row += 1) {
      for (let column = fromColumn; column <= toColumn; column += 1) {
        for (const place of this.grid[row * CELLS + column] ?? []) {
          if (this.look.shown && !this.look.shown[place]) continue;
          const distance = (this.places.x[place] - x) ** 2 + (this.places.y[place] - y) ** 2;
          if (distance < least) [found, least] = [place, distance];
        }
      }
    }
    return found;
  }

  /** @param {number} place @returns {[number, number]} its pixel */
  pixel(place) {
    return [(this.places.x[place] - this.left) / this.scale, (this.places.y[place] - this.top) / this.scale];
  }

  /** Soon, and once however often it is asked for. */
  draw() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.paint();
    });
  }

  /** Now; how many milliseconds it took. */
  paint() {
    const began = performance.now();
    const { width, height, ratio } = this.#size();
    const { canvas, context } = this;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    this.#paintPoints(ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.#paintChosen();
    return performance.now() - began;
  }

  /** Straight into the canvas' pixels: twenty thousand rectangles would take its drawing process several frames. */
  #paintPoints(/** @type {number} */ ratio) {
    const { width, height } = this.canvas;
    if (this.image.width !== width || this.image.height !== height) this.image = this.context.createImageData(width, height);
    const pixels = new Uint32Array(this.image.data.buffer);
    pixels.fill(0);
    const { colours, groups, shown } = this.look;
    const size = Math.round(Math.max(2.2, Math.min(7, 90 / Math.sqrt(groups.length) + 2)) * ratio);
    const scale = this.scale / ratio;
    const margins = marginsOf(size);
    for (const isShown of shown ? [false, true] : [true]) {
      const inks = colours.map((colour) => inkOf(colour, isShown ? 235 : 28));
      for (let place = 0; place < groups.length; place += 1) {
        if (shown && Boolean(shown[place]) !== isShown) continue;
        const left = Math.round((this.places.x[place] - this.left) / scale - size / 2);
        const top = Math.round((this.places.y[place] - this.top) / scale - size / 2);
        if (left < 0 || top < 0 || left + size > width || top + size > height) continue;
        const ink = inks[groups[place]];
        for (let row = 0; row < size; row += 1) {
          const start = (top + row) * width + left;
          pixels.fill(ink, start + margins[row], start + size - margins[row]);
        }
      }
    }
    this.context.putImageData(this.image, 0, 0);
  }

  #paintChosen() {
    const { chosen, linked } = this.look;
    if (chosen < 0) return;
    const ink = getComputedStyle(this.canvas).color;
    this.context.strokeStyle = ink;
    this.context.lineWidth = 1;
    const [x, y] = this.pixel(chosen);
    for (const other of linked) {
      const [ox, oy] = this.pixel(other);
      this.context.beginPath();
      this.context.moveTo(x, y);
      this.context.lineTo(ox, oy);
      this.context.stroke();
    }
    this.context.lineWidth = 2;
    this.context.beginPath();
    this.context.arc(x, y, 7, 0, 2 * Math.PI);
    this.context.stroke();
  }

  #size() {
    return { width: this.canvas.clientWidth || 1, height: this.canvas.clientHeight || 1, ratio: Math.min(2, devicePixelRatio || 1) };
  }

  /** @param {number} x @param {number} y @returns {[number, number]} */
  #cell(x, y) {
    const [left, right, top, bottom] = this.bounds;
    const clamp = (/** @type {number} */ share) => Math.max(0, Math.min(CELLS - 1, Math.floor(share * CELLS)));
    return [clamp((x - left) / (right - left || 1)), clamp((y - top) / (bottom - top || 1))];
  }

  #index() {
    const { x, y } = this.places;
    /** @type {number[][]} */
    const grid = [];
    for (let place = 0; place < x.length; place += 1) {
      const [column, row] = this.#cell(x[place], y[place]);
      (grid[row * CELLS + column] ??= []).push(place);
    }
    return grid;
  }
}

/** @param {Places} places @returns {[number, number, number, number]} */
function boundsOf({ x, y }) {
  let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let place = 0; place < x.length; place += 1) {
    left = Math.min(left, x[place]);
    right = Math.max(right, x[place]);
    top = Math.min(top, y[place]);
    bottom = Math.max(bottom, y[place]);
  }
  return x.length ? [left, right, top, bottom] : [0, 1, 0, 1];
}

/** How many pixels at each end of a row lie outside of a disc. @param {number} size its diameter */
function marginsOf(size) {
  const radius = size / 2;
  return Array.from({ length: size }, (_, row) => Math.round(radius - Math.sqrt(radius ** 2 - (row + 0.5 - radius) ** 2)));
}

/** A pixel as ImageData keeps it, on the little-endian machines that there are. @param {string} colour `rgb(r, g, b)` @param {number} alpha */
function inkOf(colour, alpha) {
  const [red, green, blue] = colour.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0];
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}
