/* The check that the page makes of itself: every hash and link again, and all that is shown against what is sealed.
 *
 * Rules: it looks at the bundle only, and works through it in slices of a few milliseconds, so that input never waits.
 * Each thing it can look at is a tally: how many were right, how many were not, how many could not be looked at and
 * why. Nothing passes in silence: what it does not count as right it counts elsewhere. A problem names the event.
 * What it looks at is contracts/FORMAT.md, section 9, as far as one stream alone allows. This file draws nothing.
 */
'use strict';
const Verify = (() => {
  const SLICE = 8;
  const KNOWN_FLAGS = 63;
  const TALLIES = [
    ['hash', 'Event hashes', 'BLAKE3 of each event’s sealed bytes is the hash it is shown with'],
    ['chain', 'The run’s chain', 'each event names the one before it, from the first to the head of the run'],
    ['stored', 'Stored contents', 'the encrypted content is the one that its event committed to'],
    ['blobs', 'Stored blobs', 'so is all that is too large for an event'],
    ['facts', 'Facts shown', 'type, time, actor and facts on this page are those in the sealed bytes'],
    ['words', 'Contents shown', 'contents on this page are those that the encrypted bytes hold'],
    ['states', 'States shown', 'the state at each event is what the recorded patches give'],
    ['tables', 'Tables shown', 'rows stand on the events that they name, and none of those is left out'],
    ['bundle', 'The bundle’s digest', 'the data as a whole are as they were exported'],
  ];

  const {big} = Shown;

  class Check {
    /** `kinds`: what the exporting version knows of event types: `{type: [version, fields of content…]}`. */
    constructor(bundle, kinds, progress) {
      this.bundle = bundle;
      this.kinds = kinds;
      this.progress = progress;
      this.problems = [];
      this.tallies = new Map(
        TALLIES.map(([id, name, what]) => [id, {id, name, what, right: 0, wrong: 0, open: new Map()}]),
      );
      this.stored = new Map();
      this.lists = new Map();
      this.counts = new Map();
      this.tools = new Map();
      this.until = 0;
    }

    right(id, by = 1) {
      this.tallies.get(id).right += by;
    }

    wrong(id, seq, text) {
      this.tallies.get(id).wrong++;
      this.problems.push({check: id, seq, text});
    }

    open(id, why, by = 1) {
      const open = this.tallies.get(id).open;
      open.set(why, (open.get(why) || 0) + by);
    }

    /** Whether all of it holds: `wrong`, `part` (something could not be looked at) or `right`. */
    get verdict() {
      if (this.problems.length) return 'wrong';
      return [...this.tallies.values()].some((one) => one.open.size) ? 'part' : 'right';
    }

    async breathe() {
      if (performance.now() < this.until) return;
      await new Promise((go) => setTimeout(go));
      this.until = performance.now() + SLICE;
    }

    async run() {
      const {events, records, stream} = this.bundle;
      const {safe, why} = await Records.Safe.open(stream.key).catch((error) => ({why: error.message}));
      this.safe = safe;
      this.why = why;
      this.shown = new Map(events.map((event) => [big(event.log_seq), event]));
      const seen = new Set();
      let before = null;
      for (let at = 0; at < records.length; at++) {
        await this.breathe();
        this.progress(at, records.length);
        before = (await this.record(records[at], before, seen)) || before;
      }
      events.forEach((event, at) => {
        if (!seen.has(event)) this.wrong('chain', event.seq, 'is shown, but its sealed bytes are not in the page');
        if (event.seq !== at + 1) this.wrong('facts', event.seq, `stands at place ${at + 1}`);
      });
      this.end(before);
      this.leftover();
      await Follow.states(this);
      await Rows.tables(this);
      await this.digest();
      this.progress(records.length, records.length);
      return this;
    }

    /** One record: hash, links, content, blobs, then what is shown of it. Its place for the next one's links. */
    async record(row, before, seen) {
      const event = this.shown.get(big(row.seq)),
        number = event ? event.seq : null;
      if (!event) this.wrong('facts', null, `The record at seq ${row.seq} is in the page, but its event is not shown.`);
      else if (seen.has(event)) this.wrong('chain', number, 'has two records');
      seen.add(event);
      let sealed, content, head, hash, said;
      try {
        sealed = Exact.unbase64(row.sealed);
        content = Exact.unbase64(row.content);
        head = Records.header(sealed);
      } catch (error) {
        this.wrong('hash', number, `cannot be read: ${error.message}`);
        return null;
      }
      hash = Records.hash(sealed);
      const shown = Exact.hex(hash);
      if (shown === row.hash && (!event || event.hash === shown)) this.right('hash');
      else this.wrong('hash', number, `its bytes have the hash ${shown.slice(0, 16)}…, not the one it is shown with`);
      try {
        said = Records.facts(sealed, head);
      } catch (error) {
        this.wrong('facts', number, `its facts cannot be read: ${error.message}`);
      }
      this.links(row, head, hash, said, before, number, sealed.length);
      this.contentBytes(head, content, number);
      if (said) {
        this.commitments(row, head, said, number);
        if (event) {
          Shown.envelope(this, event, head, said, shown);
          await Shown.words(this, event, head, said, content);
        }
        this.recount(head, said, number);
      }
      return {seq: head.seq, streamSeq: head.streamSeq, time: head.time, stream: head.stream, hash};
    }

    /** FORMAT.md section 9: 2, 3, 5 to 7, 11. */
    links(row, head, hash, said, before, number, size) {
      const wrong = [],
        zero = new Uint8Array(32);
      if (head.format !== 1 || head.reserved !== 0 || head.flags & ~KNOWN_FLAGS)
        wrong.push('has a format that is unknown');
      if (head.factsSize !== size - 148) wrong.push('says another size of its facts');
      if (head.seq !== big(row.seq)) wrong.push(`was sealed as seq ${head.seq}, and stands here as ${row.seq}`);
      if (head.stream !== big(this.bundle.stream.number)) wrong.push(`belongs to stream ${head.stream}`);
      if (before === null) {
        if (head.streamSeq !== 1n)
          wrong.push(`is the first here, but was sealed as event ${head.streamSeq} of its run`);
        if (head.streamPrev !== 0n || !Exact.equal(head.streamPrevHash, zero))
          wrong.push('is the first here, but names one before it');
        if (head.seq === 1n || !head.has('opens')) wrong.push('does not open the run');
      } else {
        if (head.streamSeq !== before.streamSeq + 1n) {
          wrong.push(`was sealed as event ${head.streamSeq} of its run, and follows event ${before.streamSeq}`);
        } else if (head.streamPrev !== before.seq || !Exact.equal(head.streamPrevHash, before.hash)) {
          wrong.push(`does not name event ${before.streamSeq} as the one before it`);
        }
        if (head.seq <= before.seq) wrong.push('has a place in the log that is not behind the one before');
        if (head.seq === before.seq + 1n && !Exact.equal(head.prevHash, before.hash))
          wrong.push('does not link to the log');
        if (head.time < before.time) wrong.push('is older than the one before');
        if (head.has('opens')) wrong.push('opens the run a second time');
      }
      if (said && head.has('opens')) {
        if (said.extras.stream !== this.bundle.stream.name) wrong.push('opens another stream');
        if (this.safe && Exact.hex(this.safe.check) !== Exact.hex(said.extras.key_check || zero)) {
          wrong.push('was sealed under another key than the page carries');
        }
      }
      if (wrong.length) this.wrong('chain', number, wrong.join('; '));
      else this.right('chain');
    }

    contentBytes(head, content, number) {
      if (!head.contentSize && !content.length && head.contentDigest.every((byte) => byte === 0)) return;
      const fits = content.length === head.contentSize && content.length >= Records.OVERHEAD + 1;
      if (fits && Exact.equal(Records.contentDigest(content), head.contentDigest)) this.right('stored');
      else this.wrong('stored', number, 'its encrypted content is not the one it committed to');
    }

    /** The blobs that an event stored (FORMAT.md section 9: 13 to 16). */
    commitments(row, head, said, number) {
      if (!head.has('stores')) return;
      let listed = said.extras.blobs;
      if (listed instanceof Uint8Array) {
        if (!row.list) return this.open('blobs', 'lists of blobs that the page does not hold');
        try {
          const bytes = Exact.unbase64(row.list);
          if (!Exact.equal(Records.listDigest(bytes), listed)) throw new Error('altered');
          listed = Msgpack.decode(bytes);
        } catch {
          return this.wrong('blobs', number, 'the list of its blobs is not the one it committed to');
        }
      }
      if (!Array.isArray(listed)) return this.wrong('blobs', number, 'commits to blobs in an unknown way');
      for (const one of listed) this.blob(one, number);
      return undefined;
    }

    blob(commitment, number) {
      const [id, chunks, digest] = Array.isArray(commitment) ? commitment : [];
      if (!(id instanceof Uint8Array) || !(digest instanceof Uint8Array) || !Number.isSafeInteger(chunks)) {
        return this.wrong('blobs', number, 'commits to a blob in an unknown way');
      }
      const name = Exact.hex(id),
        texts = this.bundle.blobs[name];
      if (this.stored.has(name)) return this.wrong('blobs', number, `commits to blob ${name} a second time`);
      this.stored.set(name, null);
      if (!texts) return this.wrong('blobs', number, `its blob ${name} is not in the page`);
      try {
        const rows = texts.map(Exact.unbase64),
          digester = Records.blobDigester();
        const whole = rows.every(
          (one, at) => at === rows.length - 1 || one.length === Records.CHUNK + Records.OVERHEAD,
        );
        rows.forEach((one) => digester.update(one));
        if (rows.length !== chunks || !whole || !Exact.equal(digester.digest(), digest)) throw new Error('altered');
        this.stored.set(name, rows);
        return this.right('blobs');
      } catch {
        return this.wrong('blobs', number, `its blob ${name} is not the one it committed to`);
      }
    }

    leftover() {
      const more = Object.keys(this.bundle.blobs).filter((name) => !this.stored.has(name));
      for (const name of more) this.wrong('blobs', null, `Blob ${name} is in the page, and no event stored it.`);
    }

    /** The last event of a run counts those before it (FORMAT.md section 9: 12). */
    recount(head, said, number) {
      if (head.has('closes')) {
        const same = (counted, shown) =>
          Exact.isMap(shown) &&
          counted.size === Object.keys(shown).length &&
          [...counted].every(([name, count]) => shown[name] === count);
        if (!same(this.counts, said.own.counts) || !same(this.tools, said.own.tools)) {
          this.wrong('chain', number, 'counts other events of the run than there are');
        }
      }
      this.counts.set(said.type, (this.counts.get(said.type) || 0) + 1);
      if (said.type === 'tool_call_requested') this.tools.set(said.own.tool, (this.tools.get(said.own.tool) || 0) + 1);
    }

    /** The run's last event is the head that the bundle names, and the log's head is not before it. */
    end(last) {
      const {head, stream_head: end} = this.bundle;
      if (last === null) return this.wrong('chain', null, 'The page holds no event.');
      const wrong = [];
      if (big(end.seq) !== last.seq || big(end.stream_seq) !== last.streamSeq || end.hash !== Exact.hex(last.hash)) {
        wrong.push('the last event is not the head of the run that the page names');
      }
      if (big(head.seq) < last.seq) wrong.push('the head of the log that the page names is older than the run');
      if (big(head.seq) === last.seq && head.hash !== Exact.hex(last.hash))
        wrong.push('the head of the log is another');
      if (wrong.length) this.wrong('chain', Number(last.streamSeq), wrong.join('; '));
      return undefined;
    }

    /** The digest over the canonical JSON of all but itself. */
    async digest() {
      const {bundle_digest: shown, ...rest} = this.bundle,
        hasher = Records.evidenceHasher(),
        utf8 = new TextEncoder();
      let held = '';
      for (const piece of Exact.canonical(rest)) {
        held += piece;
        if (held.length > 32768) {
          hasher.update(utf8.encode(held));
          held = '';
          await this.breathe();
        }
      }
      const found = `blake3:${Exact.hex(hasher.update(utf8.encode(held)).digest())}`;
      if (found === shown) this.right('bundle');
      else this.wrong('bundle', null, 'The data in the page are not as they were exported: their digest is another.');
    }
  }

  return {Check};
})();
