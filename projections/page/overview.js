/* The run at a look: what it is, how it stands, what it cost, what is in doubt, and the head to keep.
 *
 * Rules: facts of the summary, each under its name; what needs a person stands first. A fact that is not there is left
 * out. This file computes nothing but durations.
 */
'use strict';
const Overview = (() => {
  const fact = (name, ...value) => {
    const said = value
      .flat()
      .filter((one) => one !== null && one !== undefined && one !== '')
      .map((one) => (typeof one === 'string' ? Values.visible(one) : one));
    return said.length ? el('div', {class: 'fact'}, el('dt', null, name), el('dd', null, said)) : null;
  };
  const tile = (name, value, note, kind = '') =>
    el(
      'div',
      {class: `tile ${kind}`},
      el('span', {class: 'tile-name'}, name),
      el('b', null, value),
      note && el('small', null, note),
    );

  function view(run) {
    const {bundle} = run,
      said = bundle.summary;
    const failures = bundle.failures.filter((row) => !row.recovered).length;
    const waiting = typeof said.waiting === 'string' ? said.waiting : null;
    return [
      needs(run),
      el(
        'div',
        {class: 'tiles'},
        tile('Status', mark(said.status), waiting && Values.line(waiting, 90)),
        tile('Time', Say.span(run.end - run.start), `${Say.count(run.size)} events`),
        tile(
          'Cost',
          Say.dollars(said.usd_nano),
          `${Say.count(Exact.plus(said.input_tokens || 0, said.output_tokens || 0))} tokens`,
        ),
        tile(
          'Calls',
          Say.count(Exact.plus(said.model_calls || 0, said.tool_calls || 0)),
          `${Say.count(said.model_calls || 0)} of models, ${Say.count(said.tool_calls || 0)} of tools`,
        ),
        tile(
          'In doubt',
          Say.count(said.in_doubt || 0),
          said.in_doubt ? 'outside writes' : 'nothing',
          said.in_doubt ? 'doubt' : '',
        ),
        tile(
          'Failures',
          Say.count(bundle.failures.length),
          failures ? `${Say.count(failures)} not recovered` : bundle.failures.length ? 'all recovered' : 'none',
        ),
      ),
      el(
        'dl',
        {class: 'facts'},
        fact('Run', el('code', null, bundle.run_id)),
        fact('Agent', said.agent),
        fact('Session', said.session_id),
        fact('Parent', said.parent && el('code', null, said.parent)),
        fact('Fork of', said.ancestor && [el('code', null, said.ancestor), ` behind its event ${said.ancestor_event}`]),
        fact('Began', Say.time(said.created, true)),
        fact('Last event', Say.time(said.updated, true)),
        fact('Steps', Say.count(bundle.steps.length)),
        fact('Driver', said.driver),
        fact('Entry point', said.entry_point && el('code', null, Values.visible(said.entry_point))),
        fact('Code', said.code_digest && el('code', {class: 'digest'}, said.code_digest)),
        fact('State version', bundle.final_state.version),
        fact('Error', said.error_type, said.message && [': ', Values.long(String(said.message), 300)]),
        fact('Exported', `${Say.time(bundle.exported)} by AgentLedger ${bundle.agentledger}`),
        fact('Ledger', el('code', {class: 'digest'}, bundle.ledger_id)),
        fact('Bundle', el('code', {class: 'digest'}, bundle.bundle_digest)),
      ),
      said.output !== null &&
        said.output !== undefined &&
        el('div', {class: 'block'}, el('h3', null, 'Output'), el('div', {class: 'data'}, Values.tree(said.output))),
      el(
        'div',
        {class: 'block'},
        el('h3', null, 'Heads to keep'),
        el(
          'p',
          {class: 'note'},
          'Keep these outside of the ledger: whoever rewrites a log rewrites its hashes too, and a head shows it.',
        ),
        el(
          'dl',
          {class: 'facts heads'},
          fact('Log', copyable(`${bundle.head.seq}:${bundle.head.hash}`, 'the head of the log')),
          fact('Run', copyable(`${bundle.stream_head.seq}:${bundle.stream_head.hash}`, 'the head of the run')),
        ),
      ),
    ];
  }

  /** What waits for a person, first of all. */
  function needs(run) {
    const {bundle} = run,
      rows = [];
    for (const row of bundle.tool_ledger) {
      if (row.status === 'PENDING_VERIFICATION')
        rows.push(
          el(
            'li',
            null,
            mark(row.status),
            ' Whether ',
            el('b', null, Values.visible(row.tool)),
            ' at ',
            el('code', null, row.path),
            ' happened is not known. ',
            go(run.place(row.seq), 'Show'),
            el('code', {class: 'command'}, `agentledger ledger settle ${bundle.run_id}:${row.path}`),
          ),
        );
    }
    for (const row of bundle.approvals) {
      if (row.status === 'pending')
        rows.push(
          el(
            'li',
            null,
            mark('pending'),
            ' ',
            row.tool ? ['The tool ', el('b', null, Values.visible(row.tool))] : 'The code',
            ' waits for a person’s answer. ',
            go(run.place(row.seq), 'Show'),
            el('code', {class: 'command'}, `agentledger approve ${row.approval}`),
          ),
        );
    }
    return rows.length ? el('ul', {class: 'needs', 'aria-label': 'What needs a person'}, rows) : null;
  }

  return {view};
})();
