/* JSON without loss, and bytes as text: what the bundle says, exactly as it says it.
 *
 * Rules: times in nanoseconds and seqs are larger than a double holds, so an integer that a double cannot hold is a
 * BigInt, and a fraction that JavaScript would spell otherwise is a `Decimal` with its own text. So a document can be
 * written again byte for byte. Objects have no prototype: `__proto__` is a name like any other. `difference` compares a
 * value that was sealed (MessagePack) with one that is shown (JSON), and names the first place where they are not the
 * same: 1, 1.0 and true are three values. This file does not know what an event is.
 */
'use strict';

/** A fraction in the text of its document. */
class Decimal {
  constructor(text) {
    this.text = text;
  }

  get value() {
    return Number(this.text);
  }

  toString() {
    return this.text;
  }
}

/** A float64 of a sealed document. */
class Float {
  constructor(value) {
    this.value = value;
  }
}

const Exact = (() => {
  const ESCAPES = {'"': '"', '\\': '\\', '/': '/', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t'};
  const DEEPEST = 600;
  const LARGE = 65536;
  const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;

  /** The value of a JSON text; raises `SyntaxError` with the place. */
  function parse(text) {
    let at = 0;
    const wrong = (what) => new SyntaxError(`${what} at character ${at.toLocaleString('en')}`);

    function space() {
      for (;;) {
        const code = text.charCodeAt(at);
        if (code === 32 || code === 10 || code === 13 || code === 9) at++;
        else return;
      }
    }

    function string() {
      const start = ++at;
      const end = text.indexOf('"', start);
      if (end < 0) throw wrong('A text without an end');
      const plain = text.slice(start, end);
      if (!plain.includes('\\')) {
        at = end + 1;
        return plain;
      }
      const parts = [];
      for (let from = start; ;) {
        const code = text.charCodeAt(at);
        if (code === 34) {
          parts.push(text.slice(from, at++));
          return parts.join('');
        }
        if (code === 92) {
          parts.push(text.slice(from, at));
          const letter = text[at + 1];
          if (letter === 'u') {
            const digits = text.slice(at + 2, at + 6);
            if (!/^[0-9a-fA-F]{4}$/.test(digits)) throw wrong('A broken escape');
            parts.push(String.fromCharCode(parseInt(digits, 16)));
            at += 6;
          } else if (letter in ESCAPES) {
            parts.push(ESCAPES[letter]);
            at += 2;
          } else throw wrong('An unknown escape');
          from = at;
        } else if (Number.isNaN(code)) throw wrong('A text without an end');
        else at++;
      }
    }

    function number() {
      NUMBER.lastIndex = at;
      const found = NUMBER.exec(text);
      if (!found) throw wrong('Something that is no value');
      at = NUMBER.lastIndex;
      const value = Number(found[0]),
        fraction = found[1] !== undefined || found[2] !== undefined;
      if (!fraction && found[0] !== '-0') return Number.isSafeInteger(value) ? value : BigInt(found[0]);
      return String(value) === found[0] && !Number.isInteger(value) ? value : new Decimal(found[0]);
    }

    function word(expected, value) {
      if (!text.startsWith(expected, at)) throw wrong('Something that is no value');
      at += expected.length;
      return value;
    }

    function value(depth) {
      if (depth > DEEPEST) throw wrong('A value that is nested too deep');
      space();
      switch (text[at]) {
        case '{':
          return object(depth);
        case '[':
          return array(depth);
        case '"':
          return string();
        case 't':
          return word('true', true);
        case 'f':
          return word('false', false);
        case 'n':
          return word('null', null);
        default:
          return number();
      }
    }

    function object(depth) {
      const found = Object.create(null);
      at++;
      space();
      if (text[at] === '}') return (at++, found);
      for (;;) {
        space();
        if (text[at] !== '"') throw wrong('An object without a name');
        const name = string();
        space();
        if (text[at++] !== ':') throw wrong('An object without a colon');
        found[name] = value(depth + 1);
        space();
        const next = text[at++];
        if (next === '}') return found;
        if (next !== ',') throw wrong('An object without an end');
      }
    }

    function array(depth) {
      const found = [];
      at++;
      space();
      if (text[at] === ']') return (at++, found);
      for (;;) {
        found.push(value(depth + 1));
        space();
        const next = text[at++];
        if (next === ']') return found;
        if (next !== ',') throw wrong('An array without an end');
      }
    }

    const found = value(0);
    space();
    if (at !== text.length) throw wrong('Something behind the end');
    return found;
  }

  const isMap = (value) =>
    value !== null &&
    typeof value === 'object' &&
    !Array.isArray(value) &&
    !(value instanceof Decimal) &&
    !(value instanceof Float) &&
    !(value instanceof Uint8Array);
  const isNumber = (value) => typeof value === 'number' || typeof value === 'bigint' || value instanceof Decimal;
  /** Any number as a double: for charts and times, not for comparing. */
  const number = (value) => (value instanceof Decimal ? value.value : isNumber(value) ? Number(value) : 0);

  /** A sum of integers, exact: a BigInt where a double cannot hold it. */
  const plus = (a, b) => {
    const sum = BigInt(a) + BigInt(b);
    return sum >= -9007199254740991n && sum <= 9007199254740991n ? Number(sum) : sum;
  };

  /** Keys in the order of their code points, as Python sorts them; `sort()` would go by UTF-16. */
  const sorted = (keys) =>
    keys.sort((a, b) => {
      for (let at = 0; at < a.length && at < b.length; at++) {
        const left = a.charCodeAt(at),
          right = b.charCodeAt(at);
        if (left !== right) {
          const high = (code) => code >= 0xd800 && code < 0xe000;
          return high(left) === high(right) ? left - right : high(left) ? 1 : -1;
        }
      }
      return a.length - b.length;
    });

  /** The canonical JSON of a value, in pieces: sorted names, no spaces, numbers in their own text. */
  function* canonical(value) {
    if (Array.isArray(value)) {
      yield '[';
      for (let at = 0; at < value.length; at++) {
        if (at) yield ',';
        yield* canonical(value[at]);
      }
      yield ']';
    } else if (isMap(value)) {
      yield '{';
      let first = true;
      for (const name of sorted(Object.keys(value))) {
        yield (first ? '' : ',') + text(name) + ':';
        first = false;
        yield* canonical(value[name]);
      }
      yield '}';
    } else yield typeof value === 'string' ? text(value) : value === null ? 'null' : String(value);
  }

  /** A JSON text as Python writes it: what is not ASCII stays, and so does DEL. */
  const text = (value) => JSON.stringify(value);

  const hexDigits = Array.from({length: 256}, (_, byte) => byte.toString(16).padStart(2, '0'));
  const hex = (bytes) => {
    let out = '';
    for (let at = 0; at < bytes.length; at++) out += hexDigits[bytes[at]];
    return out;
  };
  const unhex = (digits) => {
    if (typeof digits !== 'string' || digits.length % 2 || /[^0-9a-f]/.test(digits)) throw new Error('No hex digits.');
    return Uint8Array.from({length: digits.length / 2}, (_, at) => parseInt(digits.slice(2 * at, 2 * at + 2), 16));
  };
  const unbase64 = (letters) => {
    if (typeof letters !== 'string') throw new Error('No base64.');
    const raw = atob(letters),
      bytes = new Uint8Array(raw.length);
    for (let at = 0; at < raw.length; at++) bytes[at] = raw.charCodeAt(at);
    return bytes;
  };
  const equal = (a, b) => a.length === b.length && a.every((byte, at) => byte === b[at]);

  /** Where a sealed value and a shown one differ: the place, or null if they are the same. */
  function difference(sealed, shown, where) {
    if (Array.isArray(sealed)) {
      if (!Array.isArray(shown)) return where;
      for (let at = 0; at < Math.max(sealed.length, shown.length); at++) {
        if (at >= sealed.length || at >= shown.length) return `${where}[${at}]`;
        const found = difference(sealed[at], shown[at], `${where}[${at}]`);
        if (found !== null) return found;
      }
      return null;
    }
    if (sealed instanceof Uint8Array) {
      const said = sealed.length > LARGE ? `<${sealed.length.toLocaleString('en')} bytes>` : null;
      return (said !== null && said === shown) || hex(sealed) === shown ? null : where;
    }
    if (sealed instanceof Float) {
      const fraction = shown instanceof Decimal || (typeof shown === 'number' && !Number.isInteger(shown));
      return fraction && Object.is(number(shown), sealed.value) ? null : where;
    }
    if (!isMap(sealed)) return sealed === shown ? null : where;
    if (!isMap(shown)) return where;
    for (const name of Object.keys(sealed)) {
      if (!(name in shown)) return `${where}.${name}`;
      const found = difference(sealed[name], shown[name], `${where}.${name}`);
      if (found !== null) return found;
    }
    const more = Object.keys(shown).find((name) => !(name in sealed));
    return more === undefined ? null : `${where}.${more}`;
  }

  /** Whether two values of documents say the same. */
  function same(a, b) {
    if (a === b) return true;
    if (a instanceof Decimal && b instanceof Decimal) return a.text === b.text;
    if (Array.isArray(a)) return Array.isArray(b) && a.length === b.length && a.every((one, at) => same(one, b[at]));
    if (!isMap(a) || !isMap(b)) return false;
    const names = Object.keys(a);
    return names.length === Object.keys(b).length && names.every((name) => name in b && same(a[name], b[name]));
  }

  /** A document after an RFC 7396 merge patch; what did not change is shared. */
  function merge(document, patch) {
    if (!isMap(patch)) return patch;
    const merged = Object.assign(Object.create(null), isMap(document) ? document : null);
    for (const name of Object.keys(patch)) {
      if (patch[name] === null) delete merged[name];
      else merged[name] = merge(merged[name], patch[name]);
    }
    return merged;
  }

  return {parse, isMap, same, merge, isNumber, number, plus, canonical, hex, unhex, unbase64, equal, difference};
})();
