/* BLAKE3 (the paper of 2020-01-09, sections 2.1 to 2.7): hash, keyed hash, key derivation; 32 bytes out.
 *
 * Rules: bytes in, bytes out, nothing else. Input of any length, in parts of any size: a hasher holds one chunk of
 * 1,024 bytes and at most 54 chaining values. It is written here, and not taken from anywhere, because the page that
 * checks itself may load nothing; `tests/test_page_blake3.py` compares it with the reference in all three modes. This
 * file does not know what is hashed, nor what a domain is.
 */
'use strict';
const Blake3 = (() => {
  const IV = Int32Array.of(
    0x6a09e667,
    0xbb67ae85,
    0x3c6ef372,
    0xa54ff53a,
    0x510e527f,
    0x9b05688c,
    0x1f83d9ab,
    0x5be0cd19,
  );
  const CHUNK_START = 1,
    CHUNK_END = 2,
    PARENT = 4,
    ROOT = 8;
  const KEYED = 16,
    CONTEXT = 32,
    MATERIAL = 64;
  const CHUNK = 1024,
    BLOCK = 64;

  /** The order in which each of the seven rounds takes the words of the message. */
  const ORDER = (() => {
    const step = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
    const rounds = [step.map((_, place) => place)];
    while (rounds.length < 7) rounds.push(step.map((from) => rounds[rounds.length - 1][from]));
    return Uint8Array.from(rounds.flat());
  })();

  const v = new Int32Array(16);

  function mix(a, b, c, d, x, y) {
    let va = v[a],
      vb = v[b],
      vc = v[c],
      vd = v[d];
    va = (va + vb + x) | 0;
    vd ^= va;
    vd = (vd >>> 16) | (vd << 16);
    vc = (vc + vd) | 0;
    vb ^= vc;
    vb = (vb >>> 12) | (vb << 20);
    va = (va + vb + y) | 0;
    vd ^= va;
    vd = (vd >>> 8) | (vd << 24);
    vc = (vc + vd) | 0;
    vb ^= vc;
    vb = (vb >>> 7) | (vb << 25);
    v[a] = va;
    v[b] = vb;
    v[c] = vc;
    v[d] = vd;
  }

  /** One compression: the first eight words of what comes out go to `out`. A counter stays below 2^53. */
  function compress(cv, m, counter, size, flags, out) {
    for (let at = 0; at < 8; at++) v[at] = cv[at];
    v[8] = IV[0];
    v[9] = IV[1];
    v[10] = IV[2];
    v[11] = IV[3];
    v[12] = counter | 0;
    v[13] = Math.floor(counter / 0x100000000);
    v[14] = size;
    v[15] = flags;
    for (let at = 0; at < 112; at += 16) {
      mix(0, 4, 8, 12, m[ORDER[at]], m[ORDER[at + 1]]);
      mix(1, 5, 9, 13, m[ORDER[at + 2]], m[ORDER[at + 3]]);
      mix(2, 6, 10, 14, m[ORDER[at + 4]], m[ORDER[at + 5]]);
      mix(3, 7, 11, 15, m[ORDER[at + 6]], m[ORDER[at + 7]]);
      mix(0, 5, 10, 15, m[ORDER[at + 8]], m[ORDER[at + 9]]);
      mix(1, 6, 11, 12, m[ORDER[at + 10]], m[ORDER[at + 11]]);
      mix(2, 7, 8, 13, m[ORDER[at + 12]], m[ORDER[at + 13]]);
      mix(3, 4, 9, 14, m[ORDER[at + 14]], m[ORDER[at + 15]]);
    }
    for (let at = 0; at < 8; at++) out[at] = v[at] ^ v[at + 8];
    return out;
  }

  const words = (bytes) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, 32);
    return Int32Array.from({length: 8}, (_, at) => view.getInt32(4 * at, true));
  };

  const block = new Int32Array(16);
  const padded = new Uint8Array(BLOCK);
  const paddedView = new DataView(padded.buffer);

  /** The chaining value of one chunk of up to 1,024 bytes; with `root` the hash of an input that is no longer. */
  function chunk(bytes, key, counter, flags, root) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const cv = Int32Array.from(key);
    let at = 0;
    do {
      const size = Math.min(BLOCK, bytes.length - at),
        last = at + size === bytes.length;
      if (size === BLOCK) {
        for (let word = 0; word < 16; word++) block[word] = view.getInt32(at + 4 * word, true);
      } else {
        padded.fill(0);
        padded.set(bytes.subarray(at, at + size));
        for (let word = 0; word < 16; word++) block[word] = paddedView.getInt32(4 * word, true);
      }
      const marks = (at === 0 ? CHUNK_START : 0) | (last ? CHUNK_END | root : 0);
      compress(cv, block, counter, size, flags | marks, cv);
      at += size;
    } while (at < bytes.length);
    return cv;
  }

  function parent(left, right, key, flags) {
    block.set(left, 0);
    block.set(right, 8);
    return compress(key, block, 0, BLOCK, flags | PARENT, new Int32Array(8));
  }

  /** A hash under way: a chunk is taken into the tree when it is known that another follows it. */
  class Hasher {
    constructor(key, flags) {
      this.key = key;
      this.flags = flags;
      this.held = new Uint8Array(CHUNK);
      this.size = 0;
      this.chunks = 0;
      this.stack = [];
    }

    update(bytes) {
      for (let at = 0; at < bytes.length;) {
        if (this.size === CHUNK) this.take();
        const size = Math.min(CHUNK - this.size, bytes.length - at);
        this.held.set(bytes.subarray(at, at + size), this.size);
        this.size += size;
        at += size;
      }
      return this;
    }

    take() {
      let cv = chunk(this.held, this.key, this.chunks, this.flags, 0);
      this.chunks++;
      for (let total = this.chunks; total % 2 === 0; total /= 2)
        cv = parent(this.stack.pop(), cv, this.key, this.flags);
      this.stack.push(cv);
      this.size = 0;
    }

    digest() {
      const alone = this.stack.length === 0;
      let cv = chunk(this.held.subarray(0, this.size), this.key, this.chunks, this.flags, alone ? ROOT : 0);
      for (let at = this.stack.length - 1; at >= 0; at--) {
        cv = parent(this.stack[at], cv, this.key, this.flags | (at === 0 ? ROOT : 0));
      }
      const out = new Uint8Array(32),
        view = new DataView(out.buffer);
      cv.forEach((word, at) => view.setInt32(4 * at, word, true));
      return out;
    }
  }

  const hasher = () => new Hasher(IV, 0);
  const keyedHasher = (key) => new Hasher(words(key), KEYED);
  const hash = (bytes) => hasher().update(bytes).digest();
  const keyed = (key, bytes) => keyedHasher(key).update(bytes).digest();

  /** `derive_key`: `context` is text, `material` bytes. */
  function derive(context, material) {
    const inner = new Hasher(IV, CONTEXT).update(new TextEncoder().encode(context)).digest();
    return new Hasher(words(inner), MATERIAL).update(material).digest();
  }

  return {hash, keyed, derive, hasher, keyedHasher};
})();
