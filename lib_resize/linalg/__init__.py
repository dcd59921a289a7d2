"""Mathematics on factors: no paths, no key names, no files.

Letters are those of the papers: a delta is ``B @ A`` with up ``B`` (n, r) and down ``A`` (r, m),
its singular value decomposition ``U diag(s) V^T``.
"""
