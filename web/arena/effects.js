/**
 * Small particles, rings and rising words: for hits, deaths, coins and engines. Only for the eye; a bounded number, oldest first.
 *
 * @module
 */

const MOST = 500;

/** @typedef {{x: number, y: number, vx: number, vy: number, bornMs: number, lifeMs: number, size: number, colour: string, text: string, ring: boolean}} Particle */

export class Effects {
  /** @param {boolean} calm fewer of them, and none that moves fast */
  constructor(calm) {
    this.calm = calm;
    /** @type {Particle[]} */ this.all = [];
    /** @type {{atMs: number, make: () => void}[]} */ this.due = [];
    this.shake = 0;
  }

  /** @param {number} atMs @param {() => void} make */
  later(atMs, make) {
    if (this.due.length < MOST) this.due.push({ atMs, make });
  }

  /** @param {Partial<Particle> & {x: number, y: number}} given */
  add(given) {
    if (this.all.length >= MOST) this.all.shift();
    this.all.push({
      vx: 0, vy: 0, bornMs: performance.now(), lifeMs: 500, size: 2, colour: "#fff", text: "", ring: false, ...given,
    });
  }

  /** @param {number} x @param {number} y @param {string[]} colours @param {number} count @param {number} speed @param {number} lifeMs */
  burst(x, y, colours, count, speed, lifeMs) {
    for (let k = 0; k < (this.calm ? count / 4 : count); k++) {
      const turn = Math.random() * 2 * Math.PI;
      const fast = (0.25 + Math.random() * 0.75) * speed * (this.calm ? 0.3 : 1);
      this.add({
        x, y, vx: Math.cos(turn) * fast, vy: Math.sin(turn) * fast, lifeMs: lifeMs * (0.5 + Math.random() / 2),
        size: 1.2 + Math.random() * 2.2, colour: colours[k % colours.length],
      });
    }
  }

  /** @param {number} x @param {number} y @param {string} colour @param {number} size */
  ring(x, y, colour, size) {
    this.add({ x, y, colour, size, ring: true, lifeMs: 450 });
  }

  /** @param {number} x @param {number} y @param {string} text @param {string} colour */
  words(x, y, text, colour) {
    this.add({ x, y, vy: this.calm ? 0 : -34, text, colour, lifeMs: 1000 });
  }

  /** @param {number} nowMs the time that the picture shows */
  fire(nowMs) {
    const ready = this.due.filter((effect) => effect.atMs <= nowMs);
    this.due = this.due.filter((effect) => effect.atMs > nowMs);
    for (const effect of ready) effect.make();
  }

  /** @param {CanvasRenderingContext2D} ctx in world units @param {number} nowMs @param {number} elapsedMs */
  draw(ctx, nowMs, elapsedMs) {
    this.shake *= Math.exp(-elapsedMs / 120);
    this.all = this.all.filter((particle) => nowMs - particle.bornMs < particle.lifeMs);
    const dt = elapsedMs / 1000;
    for (const particle of this.all) {
      particle.x += particle.vx * dt;
      particle.y += particle.vy * dt;
      const drag = Math.exp(-elapsedMs / 420);
      if (!particle.text) {
        particle.vx *= drag;
        particle.vy *= drag;
      }
      const age = (nowMs - particle.bornMs) / particle.lifeMs;
      ctx.globalAlpha = Math.max(0, 1 - age ** 1.5);
      if (particle.text) {
        ctx.fillStyle = particle.colour;
        ctx.font = "700 13px ui-sans-serif, system-ui, sans-serif";
        ctx.textAlign = "center";
        ctx.fillText(particle.text, particle.x, particle.y);
      } else if (particle.ring) {
        ctx.strokeStyle = particle.colour;
        ctx.lineWidth = 2 * (1 - age) + 0.4;
        ctx.beginPath();
        ctx.arc(particle.x, particle.y, particle.size * (0.3 + 0.7 * Math.sqrt(age)), 0, 7);
        ctx.stroke();
      } else {
        ctx.fillStyle = particle.colour;
        ctx.beginPath();
        ctx.arc(particle.x, particle.y, particle.size * (1 - 0.6 * age), 0, 7);
        ctx.fill();
      }
    }
    ctx.globalAlpha = 1;
  }
}
