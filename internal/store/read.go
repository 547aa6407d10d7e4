package store

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// pageSize is how many records are read at once.
const pageSize = 1000

// Get returns a record and the store's revision; KV.Rev 0 means that the record
// is absent. It is linearizable: it sees every Commit that returned before it
// began, anywhere.
func (s *Store) Get(ctx context.Context, key string) (KV, int64, error) {
	if err := checkKey(key); err != nil {
		return KV{}, 0, err
	}
	kv, rev := KV{Key: key}, int64(0)
	err := s.read(ctx, func(ctx context.Context, sess *session) error {
		res, err := sess.cli.Get(ctx, s.full(key))
		if err != nil {
			return err
		}
		s.seen(sess, res.Header)
		rev = res.Header.Revision
		if len(res.Kvs) > 0 {
			kv = s.kv(res.Kvs[0])
		}
		return nil
	})
	return kv, rev, err
}

// Read returns the records of a prefix at one revision. It is linearizable, as Get.
func (s *Store) Read(ctx context.Context, prefix string) (Snapshot, error) {
	var snap Snapshot
	err := s.read(ctx, func(ctx context.Context, sess *session) error {
		var err error
		snap, err = s.list(ctx, sess, prefix)
		return err
	})
	return snap, err
}

// read tries a request that changes nothing, on another member if need be. It did
// nothing, so every error is ErrDown or says more.
func (s *Store) read(ctx context.Context, fn func(context.Context, *session) error) error {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	for try := 1; ; try++ {
		sess, err := s.session(ctx)
		if err != nil {
			return err
		}
		inner, stop := until(ctx, sess.moved)
		err = fn(inner, sess)
		cause := context.Cause(inner)
		stop()
		if err == nil {
			return nil
		}
		if cause != nil {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		failed := s.problem(ErrDown, sess.member.endpoint, err)
		if errors.Is(said(err).says, rpctypes.ErrPermissionDenied) || try == attempts || ctx.Err() != nil || !s.settle(ctx) {
			return failed
		}
	}
}

// list reads page after page at the revision of the first one, and begins again
// when that is compacted meanwhile.
func (s *Store) list(ctx context.Context, sess *session, prefix string) (Snapshot, error) {
	for {
		snap, err := s.pages(ctx, sess, prefix)
		if !errors.Is(rpctypes.Error(err), rpctypes.ErrCompacted) {
			return snap, err
		}
	}
}

func (s *Store) pages(ctx context.Context, sess *session, prefix string) (Snapshot, error) {
	var snap Snapshot
	from, end := s.full(prefix), clientv3.GetPrefixRangeEnd(s.full(prefix))
	for {
		res, err := sess.cli.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(snap.Rev))
		if err != nil {
			return Snapshot{}, err
		}
		s.seen(sess, res.Header)
		if snap.Rev == 0 {
			snap.Rev = res.Header.Revision
		}
		for _, kv := range res.Kvs {
			snap.KVs = append(snap.KVs, s.kv(kv))
		}
		if !res.More || len(res.Kvs) == 0 {
			return snap, nil
		}
		from = string(res.Kvs[len(res.Kvs)-1].Key) + "\x00"
	}
}

func (s *Store) kv(kv *mvccpb.KeyValue) KV {
	return KV{Key: s.bare(kv.Key), Value: kv.Value, Rev: kv.ModRevision, Created: kv.CreateRevision}
}
