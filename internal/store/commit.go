package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// attempts bounds how often a request is tried that certainly did nothing. Between two
// the health loop looks; a login on a busy server takes it a second.
const attempts = 8

// Commit makes all changes of a Txn or none. A Result is the truth: the Txn
// happened, or its conditions did not hold. An error is too: ErrUnknown says that
// the Txn was sent and may happen or have happened, every other one that it did
// nothing. Without a deadline it has five seconds.
func (s *Store) Commit(ctx context.Context, t Txn) (Result, error) {
	if err := t.Check(); err != nil {
		return Result{}, err
	}
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	req := s.request(t)
	for try := 1; ; try++ {
		sess, err := s.session(ctx)
		if err != nil {
			return Result{}, err
		}
		res, out, err := s.commit(ctx, sess, t, req)
		if err == nil || !out.again || try == attempts || ctx.Err() != nil {
			return res, err
		}
		if !s.settle(ctx) {
			return res, err
		}
	}
}

// request is a Txn in etcd's words; its other branch reads the keys of If.
func (s *Store) request(t Txn) clientTxn {
	var req clientTxn
	for _, c := range t.If {
		by := clientv3.ModRevision(s.full(c.Key))
		if c.Created {
			by = clientv3.CreateRevision(s.full(c.Key))
		}
		req.conds = append(req.conds, clientv3.Compare(by, "=", c.Rev))
	}
	for _, key := range condKeys(t.If) {
		req.otherwise = append(req.otherwise, clientv3.OpGet(s.full(key)))
	}
	for _, op := range t.Then {
		switch {
		case op.Prefix:
			req.then = append(req.then, clientv3.OpDelete(s.full(op.Key), clientv3.WithPrefix()))
		case op.Delete:
			req.then = append(req.then, clientv3.OpDelete(s.full(op.Key)))
		default:
			req.then = append(req.then, clientv3.OpPut(s.full(op.Key), string(op.Value)))
		}
	}
	return req
}

type clientTxn struct {
	conds           []clientv3.Cmp
	then, otherwise []clientv3.Op
}

// commit sends a Txn once.
func (s *Store) commit(ctx context.Context, sess *session, t Txn, req clientTxn) (Result, outcome, error) {
	outer := ctx
	before := sess.rev.Load()
	ctx, cancel := until(ctx, sess.dead)
	defer cancel()
	ctx, sent := watchSent(ctx)
	res, err := sess.cli.Txn(ctx).If(req.conds...).Then(req.then...).Else(req.otherwise...).Commit()
	if err == nil {
		s.seen(sess, res.Header)
		return s.result(res), outcome{}, nil
	}
	out := judge(err, sent.Load())
	if cause := context.Cause(ctx); cause != nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	if errors.Is(out.class, ErrUnknown) && len(t.Then) == 0 {
		out.class = ErrDown // nothing was to happen
	}
	if errors.Is(out.class, ErrReadOnly) && !s.surelyNot(outer, sess, t, before) {
		out.class = ErrUnknown
	}
	return Result{}, out, s.problem(out.class, sess.member.endpoint, err)
}

func (s *Store) result(res *clientv3.TxnResponse) Result {
	out := Result{OK: res.Succeeded, Rev: res.Header.Revision}
	if res.Succeeded {
		return out
	}
	for _, r := range res.Responses {
		for _, kv := range r.GetResponseRange().GetKvs() {
			out.Now = append(out.Now, s.kv(kv))
		}
	}
	return out
}

// surelyNot says that a Txn, answered with NoSpace, was not applied. etcd's answer
// does not tell: a member whose quota is crossed by this very Txn applies it and
// says NoSpace nevertheless. But nothing of it is under way any more, so that one
// read shows it: the revision is that from before, or a record still has the mod
// revision that the Txn would have changed.
func (s *Store) surelyNot(ctx context.Context, sess *session, t Txn, before int64) bool {
	key, rev := "", int64(0)
	for _, c := range t.If {
		if !c.Created && c.Rev > 0 && slices.ContainsFunc(t.Then, func(op Op) bool { return op.covers(c.Key) }) {
			key, rev = c.Key, c.Rev
		}
	}
	ctx, cancel := until(ctx, sess.dead)
	defer cancel()
	res, err := sess.cli.Get(ctx, s.full(key), clientv3.WithKeysOnly())
	if err != nil {
		return false
	}
	s.seen(sess, res.Header)
	return before > 0 && res.Header.Revision == before || rev > 0 && len(res.Kvs) > 0 && res.Kvs[0].ModRevision == rev
}
