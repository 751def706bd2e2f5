/* Whether what is shown of an event is what was sealed: its envelope, its facts, and its content.
 *
 * Rules: a sealed value is decoded from bytes whose hash was checked just before; a content is opened from ciphertext
 * whose digest was checked, with blobs that an event up to this one committed to. What cannot be opened is counted as
 * not looked at, with the reason; a content that is shown where nothing can prove it is wrong. Counts go to the `check`
 * that is handed in (verify.js). Messages of a model call that were sent before are named by their place in an
 * earlier list, in the sealed bytes as much as on the page.
 */
'use strict';
const Shown = (() => {
  const UNSAID = ['<sealed>', '<forgotten>', '<not read>'];
  const BEFORE = '<said before>';
  const LARGE = 65536;

  const big = (value) => (typeof value === 'number' && Number.isSafeInteger(value) ? BigInt(value) : value);

  /** What is shown of an event beside its content. */
  function envelope(check, event, head, said, hash) {
    const wrong = [];
    const compare = (name, sealed) => big(event[name]) !== sealed && wrong.push(name);
    compare('seq', head.streamSeq);
    compare('log_seq', head.seq);
    compare('time_ns', head.time);
    compare('type', said.type);
    compare('actor', said.actor);
    compare('step_id', said.step);
    compare('epoch', big(said.epoch));
    compare('causation', big(said.causation));
    compare('stream', check.bundle.stream.name);
    compare('run_id', check.bundle.run_id);
    compare('payload_hash', `blake3:${hash}`);
    compare('payload_ref', `log:${head.seq}`);
    compare('event_id', `evt_${hash.slice(0, 16)}`);
    if (!(Math.abs(Exact.number(event.timestamp) - Number(head.time) / 1e9) < 1e-5)) wrong.push('timestamp');
    const kind = check.kinds[said.type];
    if (kind && said.version < kind[0]) {
      check.open('facts', 'events of an older version, whose facts are shown as the newer version reads them');
      return;
    }
    const found = Exact.difference(said.own, event.facts, 'facts');
    if (found !== null) wrong.push(found);
    if (wrong.length) check.wrong('facts', event.seq, `shows another ${wrong.join(', ')} than was sealed`);
    else check.right('facts');
  }

  /** The content that is shown, against what the encrypted bytes hold. */
  async function words(check, event, head, said, content) {
    const shown = event.content;
    if (!Exact.isMap(shown)) return check.wrong('words', event.seq, 'shows a content of no form');
    const names = Object.keys(shown);
    if (!content.length) {
      if (names.some((name) => shown[name] !== null))
        check.wrong('words', event.seq, 'shows a content that it never had');
      return undefined;
    }
    if (!check.safe) {
      const tells = names.some((name) => !UNSAID.includes(shown[name]));
      if (tells && !check.bundle.stream.key)
        return check.wrong('words', event.seq, 'shows a content that nothing here proves');
      return check.open('words', check.why);
    }
    let fields;
    try {
      fields = await check.safe.open(head, content, (name) => check.stored.get(name));
      for (const name of Object.keys(fields))
        if (fields[name].ids) check.lists.set(`${event.seq} ${name}`, fields[name].ids);
      const kind = check.kinds[said.type];
      if (!names.length && (!kind || said.version > kind[0])) {
        return check.open('words', 'contents of a type that the exporting version did not know, and did not show');
      }
      const wrong = [];
      for (const name of new Set([...names, ...Object.keys(fields)])) {
        await check.breathe();
        const found = await field(check, event, name, fields[name]);
        if (found !== null) wrong.push(found);
      }
      if (wrong.length) return check.wrong('words', event.seq, `shows another ${wrong.join(', ')} than was sealed`);
      return check.right('words');
    } catch (error) {
      if (error instanceof Records.Missing)
        return check.open('words', 'contents that need a blob which is missing or altered');
      return check.wrong('words', event.seq, `its content cannot be opened: ${error.message}`);
    }
  }

  /** Where a field of content is shown otherwise; null if it is not. */
  async function field(check, event, name, sealed) {
    const shown = event.content[name];
    if (sealed === undefined) return shown === null ? null : name;
    if (shown === undefined) return name;
    if (sealed.ids) return messages(check, event, name, sealed.ids, shown);
    const found = Exact.difference(sealed.value, shown, name);
    if (found === null || event.type !== 'artifact_created' || name !== 'data') return found;
    const size = typeof sealed.value === 'string' ? new TextEncoder().encode(sealed.value).length : sealed.size;
    return size > LARGE && shown === `<${size.toLocaleString('en')} bytes>` ? null : found;
  }

  /** A list of messages: each as it is, or named by its place in an earlier list. */
  async function messages(check, event, name, ids, shown) {
    if (!Array.isArray(shown)) return name;
    let at = 0;
    for (const one of shown) {
      const here = `${name}[${at}]`,
        mark = Exact.isMap(one) && BEFORE in one ? one[BEFORE] : undefined;
      if (Exact.isMap(mark)) {
        const list = check.lists.get(`${mark.seq} ${name}`),
          {from, count} = mark;
        if (!list || mark.seq >= event.seq || !Number.isSafeInteger(from) || !Number.isSafeInteger(count) || count < 1)
          return here;
        for (let n = 0; n < count; n++) if (list[from + n] === undefined || list[from + n] !== ids[at + n]) return here;
        at += count;
      } else {
        if (at >= ids.length) return here;
        const message = await check.safe.document(ids[at], (id) => check.stored.get(id));
        if (Exact.difference(message, mark === null ? one.message : one, here) !== null) return here;
        at++;
      }
    }
    return at === ids.length ? null : name;
  }

  return {envelope, words, big, BEFORE, UNSAID};
})();
