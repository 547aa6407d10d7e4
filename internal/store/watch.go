package store

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// The pause before a watch begins again doubles from the first to the last, and is
// the first again after a stream that lasted.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 5 * time.Second
	longStream = 10 * time.Second
)

// Watch tells fn what a prefix holds and then every change, in order and from this
// goroutine, until ctx ends; then it returns nil. It begins with a Reset, and
// whenever it cannot be sure to have been told everything (a lost connection,
// member or leader, a compaction, a restored store) it lists again, which is
// another Reset. Only Close ends it with an error.
func (s *Store) Watch(ctx context.Context, prefix string, fn func(Update)) error {
	pause := firstPause
	for {
		sess, err := s.awaitUp(ctx)
		if sess == nil {
			return err
		}
		began := time.Now()
		reason := s.follow(ctx, sess, prefix, fn)
		if time.Since(began) > longStream {
			pause = firstPause
		}
		if ctx.Err() == nil && sess.moved.Err() == nil {
			s.nudge()
		}
		level := slog.LevelDebug
		if pause == lastPause {
			level = slog.LevelWarn
		}
		s.log.Log(ctx, level, "a watch begins again", "prefix", prefix, "endpoint", sess.member.endpoint, "reason", explain(reason).String())
		sleep(ctx, pause)
		pause = min(2*pause, lastPause)
	}
}

// follow lists and then streams on one connection, until that ends.
//
// It speaks to etcd's watch service itself: the client's own watcher resumes a
// broken stream at the next revision, and on a store that was restored from a
// backup it would wait there and miss everything before.
func (s *Store) follow(ctx context.Context, sess *session, prefix string, fn func(Update)) error {
	ctx, cancel := until(ctx, sess.moved)
	defer cancel()
	snap, err := s.listBounded(ctx, sess, prefix)
	if err != nil {
		return err
	}
	fn(Update{Reset: true, Rev: snap.Rev, Puts: snap.KVs})
	stream, err := pb.NewWatchClient(sess.cli.ActiveConnection()).Watch(clientv3.WithRequireLeader(ctx))
	if err != nil {
		return err
	}
	from := s.full(prefix)
	err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte(from), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(from)), StartRevision: snap.Rev + 1,
	}}})
	if err != nil {
		return err
	}
	for {
		res, err := stream.Recv()
		if err != nil {
			return err
		}
		s.seen(sess, res.Header)
		if res.Canceled || res.CompactRevision != 0 {
			return fmt.Errorf("watch cancelled: %s (compacted at %d)", res.CancelReason, res.CompactRevision)
		}
		if len(res.Events) > 0 {
			fn(s.update(res.Events))
		}
	}
}

// listBounded lists with the time of a request for each page or so.
func (s *Store) listBounded(ctx context.Context, sess *session, prefix string) (Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*requestTimeout)
	defer cancel()
	return s.list(ctx, sess, prefix)
}

// update makes one batch of events: the last one of each key counts.
func (s *Store) update(events []*mvccpb.Event) Update {
	var u Update
	last := make(map[string]int, len(events))
	for i, e := range events {
		last[string(e.Kv.Key)] = i
		u.Rev = max(u.Rev, e.Kv.ModRevision)
	}
	for i, e := range events {
		switch {
		case last[string(e.Kv.Key)] != i:
		case e.Type == mvccpb.Event_DELETE:
			u.Deletes = append(u.Deletes, KV{Key: s.bare(e.Kv.Key), Rev: e.Kv.ModRevision})
		default:
			u.Puts = append(u.Puts, s.kv(e.Kv))
		}
	}
	return u
}

// nudge makes the health loop look now.
func (s *Store) nudge() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// sleep waits for between one half and the whole of d, or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d/2 + rand.N(d/2))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
