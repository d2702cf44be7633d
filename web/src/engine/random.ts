/**
 * Random numbers that Python draws too: the same seed gives the same numbers in `toydiffusion.row_noise`.
 *
 * NumPy's `SeedSequence` turns (seed, purpose, step, block) into a seed, and torch's Mersenne twister into
 * numbers. Uniform numbers agree bit for bit. Normal numbers agree to the last digits of cosine and logarithm.
 */

/** Rows generated together, as in Python. */
const BLOCK = 1024;

const crcTable = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

/** The checksum of a text in ASCII, as `zlib.crc32`. */
export function crc32(text: string): number {
  let crc = 0xffffffff;
  for (let i = 0; i < text.length; i++) crc = (crc >>> 8) ^ crcTable[(crc ^ text.charCodeAt(i)) & 255]!;
  return ~crc >>> 0;
}

/** The first two words of NumPy's `SeedSequence(entropy).generate_state`, for numbers below 2^53. */
export function seedWords(entropy: readonly number[]): [number, number] {
  const words: number[] = [];
  for (const value of entropy) {
    words.push(value >>> 0);
    const high = Math.floor(value / 2 ** 32);
    if (high) words.push(high);
  }
  let constant = 0x43b0d7e5;
  const hash = (value: number): number => {
    value ^= constant;
    constant = Math.imul(constant, 0x931e8875);
    value = Math.imul(value, constant);
    return (value ^ (value >>> 16)) >>> 0;
  };
  const mix = (x: number, y: number): number => {
    const result = Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y);
    return (result ^ (result >>> 16)) >>> 0;
  };
  const pool = [0, 1, 2, 3].map((i) => hash(words[i] ?? 0));
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mix(pool[to]!, hash(pool[from]!));
  }
  for (let from = 4; from < words.length; from++) {
    for (let to = 0; to < 4; to++) pool[to] = mix(pool[to]!, hash(words[from]!));
  }
  let other = 0x8b51f9dd;
  const out = pool.slice(0, 2).map((value) => {
    value ^= other;
    other = Math.imul(other, 0x58f38ded);
    value = Math.imul(value, other);
    return (value ^ (value >>> 16)) >>> 0;
  });
  return [out[0]!, out[1]!];
}

/** The Mersenne twister MT19937, and torch's ways of drawing from it on a CPU. */
export class Generator {
  private readonly state = new Uint32Array(624);
  private at = 624;
  private spare: number | null = null;

  constructor(seed: number) {
    this.state[0] = seed;
    for (let i = 1; i < 624; i++) {
      const before = this.state[i - 1]! ^ (this.state[i - 1]! >>> 30);
      this.state[i] = Math.imul(1812433253, before) + i;
    }
  }

  /** A whole number of 32 bits. */
  word(): number {
    const s = this.state;
    if (this.at === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (s[i]! & 0x80000000) | (s[(i + 1) % 624]! & 0x7fffffff);
        s[i] = s[(i + 397) % 624]! ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.at = 0;
    }
    let y = s[this.at++]!;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** A uniform number in [0, 1) of 53 bits, as `torch.rand` in float64. */
  uniform(): number {
    const high = this.word() & 0x1fffff;
    return (high * 2 ** 32 + this.word()) * 2 ** -53;
  }

  /** A uniform number in [0, 1) of 24 bits, as `torch.rand` in float32. */
  uniformFloat(): number {
    return (this.word() & 0xffffff) * 2 ** -24;
  }

  /** `n` uniform numbers. */
  uniforms(n: number): Float64Array {
    const out = new Float64Array(n);
    for (let i = 0; i < n; i++) out[i] = this.uniform();
    return out;
  }

  /** `n` standard normal numbers, as `torch.randn` in float64. */
  normals(n: number): Float64Array {
    return this.gaussian(n, false);
  }

  /** `n` standard normal numbers, as `torch.randn` in float32. */
  normalFloats(n: number): Float64Array {
    return this.gaussian(n, true);
  }

  /** The numbers 0 to n - 1 in random order, as `torch.randperm`. */
  permutation(n: number): Int32Array {
    const order = new Int32Array(n);
    for (let i = 0; i < n; i++) order[i] = i;
    for (let i = 0; i < n - 1; i++) {
      const j = i + (this.word() % (n - i));
      const kept = order[i]!;
      order[i] = order[j]!;
      order[j] = kept;
    }
    return order;
  }

  private gaussian(n: number, single: boolean): Float64Array {
    const x = new Float64Array(n);
    const fill = (first: number): void => {
      for (let i = first; i < n; i++) x[i] = single ? this.uniformFloat() : this.uniform();
    };
    if (n < 16) {
      for (let i = 0; i < n; i++) x[i] = this.normal();
      return x;
    }
    fill(0);
    // The polar form of Box and Muller, on eight pairs at a time.
    const pairs = (first: number): void => {
      for (let j = first; j < first + 8; j++) {
        const radius = Math.sqrt(-2 * Math.log(1 - x[j]!));
        const angle = 2 * Math.PI * x[j + 8]!;
        x[j] = radius * Math.cos(angle);
        x[j + 8] = radius * Math.sin(angle);
      }
    };
    for (let i = 0; i + 16 <= n; i += 16) pairs(i);
    if (n % 16) {
      fill(n - 16);
      pairs(n - 16);
    }
    return x;
  }

  /** One standard normal number, as torch draws fewer than 16. */
  private normal(): number {
    if (this.spare !== null) {
      const kept = this.spare;
      this.spare = null;
      return kept;
    }
    const first = this.uniform();
    const radius = Math.sqrt(-2 * Math.log1p(-this.uniform()));
    this.spare = radius * Math.sin(2 * Math.PI * first);
    return radius * Math.cos(2 * Math.PI * first);
  }
}

/** An endless table of random rows for one seed and one purpose (`toydiffusion.row_noise.RowNoise`). */
export class RowNoise {
  private readonly purpose: number;

  constructor(
    private readonly seed: number,
    purpose: string,
  ) {
    this.purpose = crc32(purpose);
  }

  /** A fresh generator for this block of rows at this step. */
  generator(step = 0, block = 0): Generator {
    // torch keeps the low 32 bits of a seed; Python shifts the 64 bits of NumPy by one.
    const [low, high] = seedWords([this.seed, this.purpose, step, block]);
    return new Generator(((low >>> 1) | (high << 31)) >>> 0);
  }

  /** Standard normal rows `start..stop`, `(stop - start) * dim` numbers. */
  normal(start: number, stop: number, dim: number, step = 0): Float64Array {
    return this.rows(start, stop, dim, (g) => g.normals(BLOCK * dim), step);
  }

  /** Uniform rows `start..stop` in [0, 1). */
  uniform(start: number, stop: number, dim: number, step = 0): Float64Array {
    return this.rows(start, stop, dim, (g) => g.uniforms(BLOCK * dim), step);
  }

  private rows(
    start: number,
    stop: number,
    dim: number,
    draw: (g: Generator) => Float64Array,
    step: number,
  ): Float64Array {
    const out = new Float64Array((stop - start) * dim);
    for (let block = Math.floor(start / BLOCK); block * BLOCK < stop; block++) {
      const first = block * BLOCK;
      const from = Math.max(start - first, 0), to = Math.min(stop - first, BLOCK);
      out.set(draw(this.generator(step, block)).subarray(from * dim, to * dim), (first + from - start) * dim);
    }
    return out;
  }
}
