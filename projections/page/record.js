/* A record's bytes: its header, its facts, its content and the blobs that content refers to (contracts/FORMAT.md).
 *
 * Rules: bytes go in, values or an `Error` with a sentence come out. Seqs and times are BigInt. A `Safe` holds a
 * stream's key and opens what is sealed under it, with the browser's AES-256-GCM; where there is no key or no WebCrypto
 * it says why, and opens nothing. This file does not know what is shown, and judges nothing.
 */
'use strict';
const Records = (() => {
  const HEADER = 148;
  const CHUNK = 65536,
    OVERHEAD = 28,
    MOST = 65535;
  const FLAGS = {critical: 1, opens: 2, stores: 4, tagged: 8, closes: 16, queues: 32};
  const domain = (name) => Blake3.derive(`AgentLedger format 1 ${name}`, new Uint8Array(0));
  const DOMAIN = {
    event: domain('event'),
    content: domain('content'),
    blob: domain('blob'),
    list: domain('blob list'),
    evidence: domain('evidence'),
  };

  const hash = (sealed) => Blake3.keyed(DOMAIN.event, sealed);
  const contentDigest = (content) => (content.length ? Blake3.keyed(DOMAIN.content, content) : new Uint8Array(32));
  const evidenceHasher = () => Blake3.keyedHasher(DOMAIN.evidence);
  const listDigest = (row) => Blake3.keyed(DOMAIN.list, row);
  const blobDigester = () => Blake3.keyedHasher(DOMAIN.blob);

  /** The fixed part of sealed bytes. */
  function header(sealed) {
    if (sealed.length < HEADER || sealed.length > MOST) throw new Error(`${sealed.length} bytes are no sealed event`);
    const view = new DataView(sealed.buffer, sealed.byteOffset, sealed.length);
    const flags = view.getUint8(1);
    return {
      format: view.getUint8(0),
      reserved: view.getUint16(2),
      flags,
      has: (name) => (flags & FLAGS[name]) !== 0,
      seq: view.getBigUint64(4),
      time: view.getBigUint64(12),
      prevHash: sealed.subarray(20, 52),
      stream: view.getBigUint64(52),
      streamSeq: view.getBigUint64(60),
      streamPrev: view.getBigUint64(68),
      streamPrevHash: sealed.subarray(76, 108),
      contentDigest: sealed.subarray(108, 140),
      contentSize: view.getUint32(140),
      factsSize: view.getUint32(144),
    };
  }

  /** The facts of sealed bytes; `extras` is what the log itself added. */
  function facts(sealed, head) {
    const found = Msgpack.decode(sealed.subarray(HEADER));
    const more = head.has('opens') || head.has('stores') || head.has('tagged') || head.has('queues');
    if (!Array.isArray(found) || found.length !== (more ? 8 : 7) || !Exact.isMap(found[6])) {
      throw new Error('the facts have another shape');
    }
    const [type, version, actor, step, epoch, causation, own, extras] = found;
    return {type, version, actor, step, epoch, causation, own, extras: extras || Object.create(null)};
  }

  function place(...parts) {
    const view = new DataView(new ArrayBuffer(8 * parts.length));
    parts.forEach((part, at) => view.setBigUint64(8 * at, part));
    return new Uint8Array(view.buffer);
  }

  /** What the holder of a stream's key can do; make one with `Safe.open`. */
  class Safe {
    /** A safe, or the reason why there is none: `{safe}` or `{why}`. */
    static async open(keyHex) {
      if (!keyHex) return {why: 'The page carries no key of this run: it was left out, or the run is forgotten.'};
      if (!globalThis.crypto || !crypto.subtle) {
        return {why: 'This browser gives a page opened like this no cryptography (crypto.subtle).'};
      }
      const secret = Exact.unhex(keyHex);
      const derive = (purpose) => Blake3.derive(`AgentLedger format 1 ${purpose}`, secret);
      const aes = await crypto.subtle.importKey('raw', derive('content key'), 'AES-GCM', false, ['decrypt']);
      return {safe: new Safe(aes, derive('blob id'), derive('key check').subarray(0, 8))};
    }

    constructor(aes, blobKey, check) {
      this.aes = aes;
      this.blobKey = blobKey;
      this.check = check;
      this.plain = new Map();
    }

    async decrypt(sealed, additionalData) {
      if (sealed.length < OVERHEAD) throw new Error('too short to be sealed');
      try {
        const how = {name: 'AES-GCM', iv: sealed.subarray(0, 12), additionalData};
        return new Uint8Array(await crypto.subtle.decrypt(how, this.aes, sealed.subarray(12)));
      } catch {
        throw new Error('the key does not open it at its place');
      }
    }

    /** The plain bytes of a blob; `rows` are its chunks as stored. */
    async blob(id, rows) {
      const parts = [];
      for (let n = 0; n < rows.length; n++) {
        const at = new Uint8Array(21);
        at.set(id, 0);
        new DataView(at.buffer).setUint32(16, n);
        at[20] = n === rows.length - 1 ? 1 : 0;
        parts.push(await this.decrypt(rows[n], at));
      }
      const plain = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
      parts.reduce((at, part) => (plain.set(part, at), at + part.length), 0);
      if (!Exact.equal(Blake3.keyed(this.blobKey, plain).subarray(0, 16), id)) throw new Error('a blob has another id');
      return plain;
    }

    /**
     * The content of a record: fields by name, each `{value}`, `{value, size}` for one that is a blob of its own, or
     * `{ids}` for a list of messages. `rows(id)` gives a blob's chunks, or undefined.
     */
    async open(head, content, rows) {
      const found = Msgpack.decode(await this.decrypt(content, place(head.stream, head.streamSeq)), true);
      if (!Exact.isMap(found)) throw new Error('the content is no map');
      const fields = Object.create(null);
      for (const [name, value] of Object.entries(found)) {
        if (!(value instanceof Ref)) fields[name] = {value};
        else if (value.code === 2) fields[name] = {ids: await this.leaves(value.data[0], value.data.subarray(1), rows)};
        else
          fields[name] = {
            value: await this.document(value.data, rows),
            size: (await this.bytes(value.data, rows)).length,
          };
      }
      return fields;
    }

    /** Ids of the messages below a node, as hex, in order (FORMAT.md, section 5). */
    async leaves(level, id, rows) {
      const name = `${level}/${Exact.hex(id)}`;
      if (!this.plain.has(name)) {
        const node = await this.bytes(id, rows),
          ids = [];
        if (node[0] !== level || level < 1 || node.length < 17 || node.length > 513 || (node.length - 1) % 16) {
          throw new Error('a list of messages is malformed');
        }
        for (let at = 1; at < node.length; at += 16) {
          const below = node.subarray(at, at + 16);
          if (level === 1) ids.push(Exact.hex(below));
          else for (const one of await this.leaves(level - 1, below, rows)) ids.push(one);
        }
        this.plain.set(name, ids);
      }
      return this.plain.get(name);
    }

    /** The document of a blob by its id, bytes or hex. */
    async document(id, rows) {
      const bytes = typeof id === 'string' ? Exact.unhex(id) : id,
        name = `=${Exact.hex(bytes)}`;
      if (!this.plain.has(name)) this.plain.set(name, Msgpack.decode(await this.bytes(bytes, rows)));
      return this.plain.get(name);
    }

    /** Blobs are opened once: a conversation names its messages again and again. */
    async bytes(id, rows) {
      const name = Exact.hex(id);
      if (!this.plain.has(name)) {
        const found = rows(name);
        if (!found) throw new Missing(`blob ${name} is not in the page`);
        this.plain.set(name, await this.blob(id, found));
      }
      return this.plain.get(name);
    }
  }

  /** Something that is not here to be looked at: no finding, but nothing that was checked either. */
  class Missing extends Error {}

  return {CHUNK, OVERHEAD, hash, contentDigest, listDigest, blobDigester, evidenceHasher, header, facts, Safe, Missing};
})();
