/* The canonical MessagePack of the log (contracts/FORMAT.md, section 4), read strictly.
 *
 * Rules: one encoding for a value, and every other is refused: longer forms, float32, NaN and infinities, text that is
 * no UTF-8, a name twice, more than 64 levels, bytes behind the end. Integers that a double cannot hold are BigInt,
 * floats are `Float` (1.0 is not 1), bytes are Uint8Array. References (extensions 1 and 2) are read where the caller
 * allows them. This file does not know what a document means.
 */
'use strict';

/** A reference inside content: a blob, or a list of messages. */
class Ref {
  constructor(code, data) {
    this.code = code;
    this.data = data;
  }
}

const Msgpack = (() => {
  const DEEPEST = 64;
  const utf8 = new TextDecoder('utf-8', {fatal: true, ignoreBOM: true});
  const exact = (big) => (big >= -9007199254740991n && big <= 9007199254740991n ? Number(big) : big);

  /** The value of canonical bytes; raises `Error` with the place. */
  function decode(bytes, refs = false) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    let at = 0;
    const wrong = (what) => new Error(`${what} at byte ${at}`);

    function take(size) {
      if (at + size > bytes.length) throw wrong('cut short');
      at += size;
      return at - size;
    }

    /** A length or a number of `size` bytes that no shorter form could hold. */
    function shortest(size, least) {
      const from = take(size);
      const value = size === 1 ? view.getUint8(from) : size === 2 ? view.getUint16(from) : view.getUint32(from);
      if (value < least) throw wrong('a longer form than needed');
      return value;
    }

    function unsigned(size, least) {
      if (size < 8) return shortest(size, least);
      const value = view.getBigUint64(take(8));
      if (value < 0x100000000n) throw wrong('a longer form than needed');
      return exact(value);
    }

    function signed(size, most) {
      const from = take(size);
      const value =
        size === 1
          ? view.getInt8(from)
          : size === 2
            ? view.getInt16(from)
            : size === 4
              ? view.getInt32(from)
              : exact(view.getBigInt64(from));
      if (value > most) throw wrong('a longer form than needed');
      return value;
    }

    function float() {
      const value = view.getFloat64(take(8));
      if (!Number.isFinite(value)) throw wrong('a number that is none');
      return new Float(value);
    }

    function text(size) {
      const from = take(size);
      return utf8.decode(bytes.subarray(from, from + size));
    }

    function array(size, depth) {
      if (depth >= DEEPEST) throw wrong('nested too deep');
      const found = [];
      for (let n = 0; n < size; n++) found.push(value(depth + 1));
      return found;
    }

    function map(size, depth) {
      if (depth >= DEEPEST) throw wrong('nested too deep');
      const found = Object.create(null);
      for (let n = 0; n < size; n++) {
        const name = value(depth + 1);
        if (typeof name !== 'string') throw wrong('a name that is no text');
        if (name in found) throw wrong('a name twice');
        found[name] = value(depth + 1);
      }
      return found;
    }

    function reference(size) {
      const code = view.getInt8(take(1)),
        from = take(size);
      if (!refs || (code !== 1 && code !== 2) || size !== (code === 1 ? 16 : 17)) throw wrong('an unknown reference');
      return new Ref(code, bytes.slice(from, from + size));
    }

    function blob(size) {
      const from = take(size);
      return bytes.slice(from, from + size);
    }

    function value(depth) {
      const first = view.getUint8(take(1));
      if (first < 0x80) return first;
      if (first < 0x90) return map(first & 15, depth);
      if (first < 0xa0) return array(first & 15, depth);
      if (first < 0xc0) return text(first & 31);
      if (first >= 0xe0) return first - 0x100;
      switch (first) {
        case 0xc0:
          return null;
        case 0xc2:
          return false;
        case 0xc3:
          return true;
        case 0xc4:
          return blob(shortest(1, 0));
        case 0xc5:
          return blob(shortest(2, 0x100));
        case 0xc6:
          return blob(shortest(4, 0x10000));
        case 0xc7:
          return reference(shortest(1, 0));
        case 0xcb:
          return float();
        case 0xcc:
          return unsigned(1, 0x80);
        case 0xcd:
          return unsigned(2, 0x100);
        case 0xce:
          return unsigned(4, 0x10000);
        case 0xcf:
          return unsigned(8, 0);
        case 0xd0:
          return signed(1, -33);
        case 0xd1:
          return signed(2, -129);
        case 0xd2:
          return signed(4, -32769);
        case 0xd3:
          return signed(8, -2147483649);
        case 0xd8:
          return reference(16);
        case 0xd9:
          return text(shortest(1, 32));
        case 0xda:
          return text(shortest(2, 0x100));
        case 0xdb:
          return text(shortest(4, 0x10000));
        case 0xdc:
          return array(shortest(2, 16), depth);
        case 0xdd:
          return array(shortest(4, 0x10000), depth);
        case 0xde:
          return map(shortest(2, 16), depth);
        case 0xdf:
          return map(shortest(4, 0x10000), depth);
        default:
          throw wrong('a form that is never written');
      }
    }

    const found = value(0);
    if (at !== bytes.length) throw wrong('bytes behind the end');
    return found;
  }

  return {decode};
})();
