package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// revokeTimeout bounds how long the end of Live waits for the store.
const revokeTimeout = time.Second

// Live keeps a record while this process lives: it goes away ttl after the process
// died or lost the store, and at once when ctx ends. It is made again after its
// lease was lost, the store was away or restored, or somebody deleted it; a third
// of ttl may pass until then. Live returns nil when ctx has ended. ttl is at least
// two seconds, and etcd may make it longer.
func (s *Store) Live(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if ttl < 2*time.Second {
		return fmt.Errorf("%w: a lease of %s: two seconds at least", ErrInvalid, ttl)
	}
	l := &lease{store: s, key: key, value: value, ttl: ttl}
	pause := firstPause
	for {
		sess, err := s.awaitUp(ctx)
		if sess == nil {
			l.end(ctx)
			return err
		}
		wait := ttl / 3
		if err := l.refresh(ctx, sess); err != nil {
			s.log.Debug("a lease is not refreshed", "key", key, "endpoint", sess.member.endpoint, "reason", explain(err).String())
			wait, pause = min(pause, wait), min(2*pause, lastPause)
		} else {
			pause = firstPause
		}
		select {
		case <-time.After(wait):
		case <-sess.moved.Done():
		case <-ctx.Done():
		}
	}
}

// A lease is that of one Live.
type lease struct {
	store *Store
	key   string
	value []byte
	ttl   time.Duration
	id    clientv3.LeaseID
	put   bool // the record hangs on id
}

// refresh prolongs the lease and makes it and the record where they lack.
func (l *lease) refresh(ctx context.Context, sess *session) error {
	ctx, cancel := context.WithTimeout(ctx, min(l.ttl/2, requestTimeout))
	defer cancel()
	ctx, stop := until(ctx, sess.moved)
	defer stop()
	if l.id != 0 {
		_, err := sess.cli.KeepAliveOnce(ctx, l.id)
		if errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseNotFound) {
			l.id, l.put = 0, false
		} else if err != nil {
			return err
		}
	}
	if l.id == 0 {
		res, err := sess.cli.Grant(ctx, int64((l.ttl+time.Second-1)/time.Second))
		if err != nil {
			return err
		}
		l.id = res.ID
	}
	key := l.store.full(l.key)
	if l.put {
		res, err := sess.cli.Get(ctx, key)
		if err != nil {
			return err
		}
		l.put = len(res.Kvs) > 0 && res.Kvs[0].Lease == int64(l.id)
	}
	if l.put {
		return nil
	}
	res, err := sess.cli.Put(ctx, key, string(l.value), clientv3.WithLease(l.id))
	if err != nil {
		return err
	}
	l.store.seen(sess, res.Header)
	l.put = true
	return nil
}

// end revokes the lease, and the record with it, if the store is there.
func (l *lease) end(ctx context.Context) {
	st, _ := l.store.look()
	if l.id == 0 || st.session == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer cancel()
	if _, err := st.session.cli.Revoke(ctx, l.id); err != nil {
		l.store.log.Debug("a lease is not revoked and runs out", "key", l.key, "reason", explain(err).String())
	}
}
