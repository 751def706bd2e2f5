/* What was said to models and by them up to any event, with a result for every tool call.
 *
 * Rules: a second time on purpose what `projections/transcript.py` does, from the events that are shown, and with the
 * same result: a request that begins with all that was said so far goes on with that conversation, any other begins
 * one; a missing result is looked for among the run's calls, else it is invented and says so. One event further costs
 * one event, and one back hardly more: copies are kept at distances that double. This file draws nothing.
 */
'use strict';
const Transcript = (() => {
  const {INVENTED, callsOf, comparable, compose, documentsOf, paired, responseMessage, saysTheSame} = Messages,
    {map, none, textOf, unsaid} = Messages;
  const SPEAKS = ['model_call_requested', 'model_call_completed', 'model_call_failed'].concat([
    'tool_call_requested',
    'tool_call_completed',
    'tool_call_failed',
    'tool_call_settled',
  ]);
  const NEVER_BEGUN = {text: `${INVENTED}: it was never begun.`, invented: true};

  /** Whether a conversation is the beginning of what is sent. */
  function goesOn(talk, sent) {
    const count = talk.said.length;
    if (count > sent.length || talk.unread) return false;
    const answered = count && talk.origins[count - 1].response,
      exact = answered ? count - 1 : count;
    for (let at = 0; at < exact; at++) if (!Exact.same(sent[at], talk.said[at])) return false;
    return !answered || saysTheSame(talk.said[exact], sent[exact]);
  }

  class Reading {
    constructor(run) {
      [this.run, this.talks, this.unread] = [run, [], null];
      for (const name of ['waiting', 'entries', 'proposed']) this[name] = new Map();
    }

    copy() {
      const one = new Reading(this.run),
        own = new Map(this.talks.map((talk) => [talk, {...talk, said: [...talk.said], origins: [...talk.origins]}]));
      one.talks = [...own.values()];
      one.unread = this.unread && own.get(this.unread);
      one.waiting = new Map([...this.waiting].map(([path, row]) => [path, {...row, talk: own.get(row.talk)}]));
      one.entries = new Map([...this.entries].map(([path, entry]) => [path, {...entry}]));
      one.proposed = new Map([...this.proposed].map(([key, seqs]) => [key, [...seqs]]));
      return one;
    }

    take(event) {
      const {type, facts, log_seq: seq} = event,
        entry = this.entries.get(facts.path);
      if (type === 'model_call_requested') this.requested(event);
      else if (type === 'model_call_completed') this.answered(event);
      else if (type === 'model_call_failed') {
        const waiting = this.waiting.get(facts.path);
        if (waiting) waiting.talk.last = seq;
      } else if (type === 'tool_call_requested')
        this.entries.set(facts.path, {
          seq: entry ? entry.seq : seq,
          name: facts.tool,
          asked: event.content.arguments,
          writes: facts.side_effect === 'external_write',
          standing: 'open',
          value: null,
          error: null,
          told: true,
          nothing: false,
        });
      else if (entry) this.ended(entry, type, facts, event.content);
    }

    /** What came of a tool call, as its step's journal has it. */
    ended(entry, type, facts, content) {
      const final = entry.standing === 'done' || entry.standing === 'failed';
      const end = (standing, value, error = null) => Object.assign(entry, {standing, value, error});
      if (type === 'tool_call_completed') end('done', content.result);
      else if (type === 'tool_call_failed') {
        const unknown = facts.category === 'unknown',
          again = !none(facts.retry_ns);
        if (unknown && (final || entry.nothing || entry.standing === 'in doubt')) return;
        end(facts.in_doubt ? 'in doubt' : again ? 'open' : 'failed', content.message, facts.error_type);
        [entry.told, entry.nothing] = [!unknown, again && !facts.in_doubt];
      } else if (final) return;
      else if (facts.outcome === 'succeeded') end('done', content.result);
      else if (facts.outcome === 'compensated') {
        const tells = entry.told && !none(entry.value) && entry.value !== '' && unsaid(entry.value) === null;
        const said = tells ? entry.value : 'it happened, and was undone';
        end('failed', said, (entry.told && entry.error) || 'Compensated');
      } else if (entry.standing === 'in doubt' && entry.told && !facts.again) end('failed', entry.value, entry.error);
      else [entry.nothing, entry.standing] = [true, 'open'];
    }

    begun(event) {
      const talk = {model: '', said: [], origins: [], unread: '', first: event.log_seq, last: event.log_seq};
      this.talks.push(talk);
      return talk;
    }

    requested(event) {
      const {facts, content, log_seq: seq} = event;
      let talk = null,
        sent;
      if (unsaid(content.messages) === null) {
        sent = documentsOf(this.run.messages(event));
        for (const one of this.talks)
          if (goesOn(one, sent) && (!talk || one.said.length >= talk.said.length)) talk = one;
        talk = talk || this.begun(event);
      } else {
        const why = unsaid(content.messages),
          words = `[agentledger] The messages of this conversation cannot be read: ${why}.`;
        talk = this.unread;
        if (!talk) {
          talk = this.unread = this.begun(event);
          talk.unread = why;
        }
        sent = talk.said.length ? talk.said : [map({role: 'user', content: words})];
      }
      while (talk.origins.length < sent.length) talk.origins.push({seq, response: false});
      [talk.said, talk.model, talk.last] = [sent, facts.model, seq];
      this.waiting.set(facts.path, {talk, count: sent.length, asked: seq});
    }

    answered(event) {
      const {facts, content, log_seq: seq} = event,
        row = this.waiting.get(facts.path);
      this.waiting.delete(facts.path);
      let talk = row ? row.talk : this.begun(event);
      if (row && talk.said.length > row.count && !talk.unread) {
        const fork = this.begun(event);
        [fork.model, fork.first] = [talk.model, row.asked];
        [fork.said, fork.origins] = [talk.said.slice(0, row.count), talk.origins.slice(0, row.count)];
        talk = fork;
      }
      const why = unsaid(content.response),
        message = responseMessage(facts.streamed ? Streamed.message(content.response) : content.response);
      if (why !== null) talk.unread = why;
      talk.last = seq;
      if (!talk.unread || !talk.said.length || !Exact.same(talk.said[talk.said.length - 1], message)) {
        talk.said = [...talk.said, message];
        talk.origins.push({seq, response: true});
      }
      for (const {key} of callsOf(message)) this.proposed.set(key, [...(this.proposed.get(key) || []), seq]);
    }

    /** Each call of a conversation: its response is the one at hand, else the next that proposed such a call. */
    asked(talk) {
      const seen = new Map();
      return paired(talk.said).map((pair) => {
        const origin = talk.origins[pair.at],
          {key} = pair.call,
          place = seen.get(key) || 0;
        seen.set(key, place + 1);
        const known = origin.response ? [] : (this.proposed.get(key) || []).filter((seq) => seq < origin.seq);
        const since = place < known.length ? known[place] : origin.seq;
        return {talk, pair, since, id: `${since} ${key}`};
      });
    }

    /** What the record knows of each call, each recorded call once; what was answered takes its own first. */
    found(rows) {
      const free = new Map(),
        shown = new Map(),
        found = new Map();
      const place = (name, given) => `${comparable(given)} ${name}`;
      for (const entry of [...this.entries.values()].sort((a, b) => a.seq - b.seq)) {
        if (unsaid(entry.asked) !== null) continue;
        const key = place(entry.name, entry.asked);
        free.set(key, [...(free.get(key) || []), entry]);
      }
      for (const {talk, pair, id} of [...rows].reverse())
        if (pair.result)
          shown.set(id, {end: talk.origins[pair.result.at].seq, text: textOf(pair.result.document.content)});
      const order = [...rows].sort((a, b) => shown.has(b.id) - shown.has(a.id) || b.since - a.since);
      for (const {pair, since, id} of order) {
        if (found.has(id)) continue;
        const key = `${pair.call.arguments} ${pair.call.name}`,
          entries = free.get(key) || [],
          said = shown.get(id);
        const fitting = entries.filter((entry) => since < entry.seq && (!said || entry.seq < said.end)),
          done = fitting.filter((entry) => entry.standing === 'done');
        const best = said ? done.filter((entry) => textOf(entry.value) === said.text) : done;
        const one = best[0] || fitting[0] || null;
        found.set(id, one);
        free.set(
          key,
          entries.filter((entry) => entry !== one),
        );
      }
      return found;
    }

    transcript() {
      const talks = [...this.talks].sort((a, b) => a.first - b.first),
        rows = talks.map((talk) => this.asked(talk)),
        found = this.found(rows.flat());
      return talks.map((talk, at) => {
        const pairs = rows[at].map(({pair}) => pair),
          answers = rows[at].map(({id}) => answerOf(found.get(id)));
        const {model, unread, first, last} = talk;
        return {model, ...compose(talk.said, pairs, answers), unread, seqs: [first, last]};
      });
    }
  }

  /** What is shown for a call by what the record knows of it. */
  function answerOf(entry) {
    if (!entry) return NEVER_BEGUN;
    const {standing, value, error} = entry;
    if (standing === 'done' && unsaid(value) === null) return {text: textOf(value), invented: false};
    const why = `${error}: ${unsaid(value) === null ? textOf(value) : JSON.stringify(value)}`;
    const text =
      standing === 'done'
        ? ` that can still be read: it returned, and its result is ${value}.`
        : standing === 'failed'
          ? `: it failed (${why}).`
          : standing === 'in doubt'
            ? `: it is in doubt, because nobody knows whether it happened (${why}).`
            : entry.nothing
              ? ': it was begun, and was found to have had no effect that lasts.'
              : entry.writes
                ? ': it is in doubt, because it was begun and nobody knows whether it happened.'
                : ': it was begun and did not end; it is a call that changes nothing outside.';
    return {text: `${INVENTED}${text}`, invented: true};
  }

  /** The transcript of a run at any of its places. */
  class Dialogue {
    constructor(run) {
      this.run = run;
      this.spoken = run.events.flatMap((event, at) => (SPEAKS.includes(event.type) ? [at + 1] : []));
      [this.count, this.reading, this.kept, this.made] = [0, new Reading(run), new Map(), null];
    }

    at(place) {
      let low = 0,
        high = this.spoken.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (this.spoken[middle] <= place) low = middle + 1;
        else high = middle;
      }
      if (low === this.count && this.made) return this.made;
      if (low < this.count) {
        for (const at of [...this.kept.keys()]) if (at > low) this.kept.delete(at);
        this.count = Math.max(0, ...this.kept.keys());
        this.reading = this.kept.has(this.count) ? this.kept.get(this.count).copy() : new Reading(this.run);
      }
      while (this.count < low) {
        const far = low - this.count;
        if ((far & (far - 1)) === 0) this.kept.set(this.count, this.reading.copy());
        this.reading.take(this.run.at(this.spoken[this.count++]));
      }
      const held = new Set();
      for (const at of [...this.kept.keys()].sort((a, b) => a - b)) {
        const size = Math.floor(Math.log2(low - at || 0.5));
        if (held.has(size)) this.kept.delete(at);
        held.add(size);
      }
      this.made = this.reading.transcript();
      return this.made;
    }
  }

  return {Dialogue};
})();
