/* Panels of one event: what the run had used and held by then, and what had been said.
 *
 * Rules: the end of a conversation is shown first, and what stands before it is drawn when a reader asks. A result that
 * nobody recorded is marked as made up. What is heavy is folded when it is first looked at. This file folds nothing.
 */
'use strict';
const Moment = (() => {
  const FIRST = 8,
    PART = 60;
  const NAMES = new Map(Object.entries({usd_nano: '', wall_ns: 'of work'}));
  const amount = (name, value) => {
    if (name === 'usd_nano') return Say.dollars(value);
    return name === 'wall_ns' ? Say.span(Exact.number(value) / 1e9) : Say.count(value);
  };

  /** What had been used and held by the event at a place. */
  function budget(run, place) {
    run.used = run.used || Used.course(run);
    const now = Used.at(run.used, place),
      chip = (name, value, text) =>
        value ? el('span', {class: 'pair'}, el('small', null, name), text || Say.count(value)) : null;
    const bounds = now.bounds === null ? [] : Object.entries(now.bounds),
      held = [...now.held].flatMap(([account, amounts]) => [...amounts].map((row) => [account, ...row]));
    const rows = [
      ...bounds.map(([name, value]) => ['Bound when it was created', name, value]),
      ...held.map(([account, name, value]) => [`Held of ${account.replace(':', ' ')}`, name, value]),
    ];
    return [
      el('h3', null, 'Budget', el('small', null, 'what the run itself had used')),
      el(
        'div',
        {class: 'pairs'},
        chip('steps', now.steps),
        chip('model calls', now.model_calls),
        chip('tool calls', now.tool_calls),
        chip('tokens in', now.input_tokens),
        chip('tokens out', now.output_tokens),
        chip('cached', now.cached_tokens),
        chip('paid', now.usd_nano, Say.dollars(now.usd_nano)),
        chip('calls that hold something', now.open),
      ),
      rows.length
        ? el(
            'ul',
            {class: 'bounds'},
            rows.map(([what, name, value]) =>
              el(
                'li',
                null,
                el('span', null, Values.visible(what)),
                el('b', null, amount(name, value)),
                el('small', null, NAMES.has(name) ? NAMES.get(name) : Values.visible(Say.words(name))),
              ),
            ),
          )
        : el('p', {class: 'nothing'}, 'It was created without a bound, and holds nothing.'),
      el(
        'p',
        {class: 'aside'},
        'Bounds that were set later, and what others used of them, stand outside of the run: ',
        el('code', null, Values.visible(`agentledger timetravel ${run.bundle.run_id} --at-seq ${place}`)),
      ),
    ];
  }

  /** What had been said by the event at a place. */
  function transcript(run, place) {
    run.dialogue = run.dialogue || new Transcript.Dialogue(run);
    const talks = [...run.dialogue.at(place)].sort((a, b) => a.seqs[1] - b.seqs[1]),
      count = talks.reduce((sum, talk) => sum + talk.messages.length, 0);
    const title = [Say.many(count, 'message'), talks.length > 1 ? ` in ${Say.many(talks.length, 'conversation')}` : ''];
    if (!talks.length) return [el('h3', null, 'Transcript'), el('p', {class: 'nothing'}, 'Nothing was said yet.')];
    const newest = talks.pop();
    return [
      el('h3', null, 'Transcript', el('small', null, title)),
      earlier(talks),
      el('h4', null, heading(newest)),
      messages(newest),
    ];
  }

  const heading = (talk) => {
    const made = [
      [talk.invented, 'made up'],
      [talk.restored, 'from the record'],
    ].flatMap(([ids, what]) => (ids.length ? [`${Say.many(ids.length, 'result')} ${what}`] : []));
    return [
      Values.visible(Say.short(String(talk.model || 'a model'), 60)),
      el('small', null, [Say.many(talk.messages.length, 'message'), ...made].join(' · ')),
    ];
  };

  /** Conversations in which nothing was said since the newest: the youngest of them, each opens. */
  function earlier(talks) {
    if (!talks.length) return null;
    const list = el('div', {class: 'earlier'}),
      more = el('button', {type: 'button', class: 'more'});
    let left = talks.length;
    function draw() {
      const until = Math.max(0, left - FIRST);
      while (left > until) {
        const talk = talks[--left],
          details = el('details', null, el('summary', null, heading(talk)));
        details.addEventListener('toggle', () => {
          if (details.open && details.childElementCount === 1) details.append(messages(talk));
        });
        list.prepend(details);
      }
      if (left) {
        more.textContent = `… ${Say.many(left, 'conversation')} before`;
        list.prepend(more);
      } else more.remove();
    }
    more.addEventListener('click', draw);
    draw();
    return list;
  }

  /** The end of a conversation, with a button for what stands before it. */
  function messages(talk) {
    const list = el('div', {class: 'talk'}),
      more = el('button', {type: 'button', class: 'more'});
    let left = talk.messages.length;
    function draw(size) {
      const until = Math.max(0, left - size),
        rows = talk.messages.slice(until, left).map(message);
      more.remove();
      list.prepend(...rows);
      left = until;
      more.textContent = `… ${Say.many(left, 'message')} before`;
      if (left) list.prepend(more);
    }
    more.addEventListener('click', () => draw(PART));
    draw(FIRST);
    return list;
  }

  const ROLES = ['system', 'developer', 'user', 'assistant', 'tool'];

  function message(one) {
    const role = ROLES.includes(one.role) ? one.role : 'other',
      text = Messages.textOf(one.content);
    const invented = text.startsWith(Messages.INVENTED) || Messages.items(one.content, 'tool_result').some(isInvented);
    return el(
      'div',
      {class: `said ${role}${invented ? ' invented' : ''}`},
      el('small', {class: 'role'}, Values.visible(Say.short(String(one.role), 20))),
      el('div', {class: 'words'}, parts(one)),
    );
  }

  const isInvented = (block) => Messages.textOf(block.content).startsWith(Messages.INVENTED);
  const call = (name, given) => [
    el('span', {class: 'call'}, `→ ${Values.visible(Say.short(Messages.textOf(name), 60))}`),
    Values.long(Messages.textOf(given), 400),
  ];

  /** What a message says: its text, its calls, the results in it. */
  function parts({content, tool_calls: calls}) {
    const blocks = Array.isArray(content) ? content : Messages.none(content) || content === '' ? [] : [content];
    return [
      ...blocks.map((block) => {
        const kind = Messages.get(block, 'type');
        if (kind === 'tool_use') return call(block.name, block.input);
        if (kind === 'tool_result')
          return [el('span', {class: 'call'}, '←'), Values.long(Messages.textOf(block.content))];
        if (kind === 'text') return Values.long(Messages.textOf(block.text));
        return Values.isTree(block) ? Values.tree(block, {levels: 1}) : Values.long(Messages.textOf(block));
      }),
      ...Messages.items(calls).map((entry) => {
        const said = Messages.get(entry, 'function', entry.custom);
        return call(Messages.get(said, 'name'), Messages.get(said, 'arguments', Messages.get(said, 'input')));
      }),
    ].map((part) => el('div', null, part));
  }

  return {budget, transcript};
})();
