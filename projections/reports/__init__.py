"""Reports over the rows of a ledger: what was paid, what failed and why, and whether a release may stand on it.

Rules: a report is a pure function of a `subject.Subject`, and a plain value that JSON can hold; how it is shown is
`sections`, the same for a terminal and a page.
"""
