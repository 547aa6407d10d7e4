package store

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// The clock of the health loop. A store that stops answering is known to be down
// after probeEvery + probePatience + searchPatience at the latest.
const (
	probeEvery     = 700 * time.Millisecond
	probePatience  = 600 * time.Millisecond
	searchPatience = 700 * time.Millisecond
	searchEvery    = 200 * time.Millisecond
	deniedEvery    = time.Second             // a login costs a member of etcd a tenth of a second of its processor
	downAfter      = 1800 * time.Millisecond // since the last answer
	redialAfter    = 2 * time.Second         // connections that do not answer are made anew
	loginTimeout   = 5 * time.Second
	requestTimeout = 5 * time.Second // of requests without a deadline
	alertPatience  = 200 * time.Millisecond
	leaveGrace     = 2 * time.Second // for requests under way when another member is used
)

// run is the health loop: it keeps one session on a member that answers
// linearizable reads, and says when there is none.
func (s *Store) run() {
	defer close(s.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	answered := time.Now()
	for {
		st, _ := s.look()
		select {
		case <-s.ctx.Done():
			s.shut()
			return
		case <-timer.C:
		case <-s.kick:
		}
		if st.session != nil && s.alive(st.session) {
			answered = time.Now()
			s.publish(st.session, nil)
			timer.Reset(probeEvery)
			continue
		}
		a, err := s.search(st.session == nil)
		switch {
		case err == nil:
			answered = time.Now()
			s.use(a)
			timer.Reset(probeEvery)
			continue
		case st.session == nil || time.Since(answered) >= downAfter:
			s.publish(nil, err)
		}
		pause := searchEvery
		if st, _ = s.look(); st.session == nil && errors.Is(st.down, ErrDenied) {
			pause = deniedEvery
		}
		timer.Reset(pause)
	}
}

// alive says whether the member in use answers.
func (s *Store) alive(sess *session) bool {
	ctx, cancel := context.WithTimeout(s.ctx, probePatience)
	defer cancel()
	header, err := s.probe(ctx, sess.member)
	s.seen(sess, header)
	return err == nil
}

// probe makes one linearizable read of a key that is never there.
func (s *Store) probe(ctx context.Context, m *member) (*pb.ResponseHeader, error) {
	cli, err := m.client(ctx)
	if err != nil {
		return nil, err
	}
	for range 2 { // the first one renews an expired token
		var res *clientv3.GetResponse
		if res, err = cli.Get(ctx, s.prefix, clientv3.WithKeysOnly()); err == nil {
			return res.Header, nil
		}
		if !judge(err, true).again {
			break
		}
	}
	if reason := m.refused(ctx, err); reason != nil {
		err = reason
	}
	return nil, err
}

// An answer is that of one member to a probe.
type answer struct {
	member *member
	header *pb.ResponseHeader
	err    error
}

// search probes all members at once and returns the first one that answers. With
// redial, connections that were given enough time are made anew; those with certificates
// whatever is wrong, because they have the ones that they were made with.
func (s *Store) search(redial bool) (answer, error) {
	ctx, cancel := context.WithTimeout(s.ctx, searchPatience)
	defer cancel()
	answers := make(chan answer, len(s.members))
	for _, m := range s.members {
		go func() {
			header, err := s.probe(ctx, m)
			answers <- answer{m, header, err}
		}()
	}
	var failed endpointErrors
	for range s.members {
		a := <-answers
		if a.err == nil {
			return a, nil
		}
		if redial && (timedOut(a.err) || a.member.tls != nil) {
			a.member.drop(redialAfter)
		}
		failed = append(failed, a)
	}
	return answer{}, failed
}

// use makes a member that has just answered the one in use.
func (s *Store) use(a answer) {
	for _, other := range s.members {
		if other != a.member {
			other.drop(0)
		}
	}
	st, _ := s.look()
	cli, err := a.member.client(s.ctx)
	if err != nil {
		return // closed meanwhile
	}
	sess := st.session
	if sess == nil || sess.cli != cli {
		sess = newSession(s.ctx, a.member, cli)
	}
	s.seen(sess, a.header)
	s.publish(sess, nil)
}

// publish tells the verdict of a round to all who wait for one.
func (s *Store) publish(sess *session, cause error) {
	s.mu.Lock()
	before := s.state
	now := state{session: sess, since: before.since, round: before.round + 1}
	if sess == nil {
		now.down = s.problem(ErrDown, "", cause)
	}
	turned := before.round == 0 || (before.session == nil) != (sess == nil)
	if turned {
		now.since = time.Now()
	}
	s.state = now
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	if old := before.session; old != nil && old != sess {
		grace := leaveGrace
		if sess == nil {
			grace = 0
		}
		old.leave(grace)
	}
	switch {
	case turned && sess != nil:
		s.log.Info("the store answers", "endpoint", sess.member.endpoint)
	case turned:
		s.log.Warn("the store is down", "reason", reason(now.down))
	case sess != before.session && sess != nil:
		s.log.Info("another member of the store is used", "endpoint", sess.member.endpoint)
	}
	if turned && s.onChange != nil {
		s.onChange(sess != nil)
	}
}

// shut ends the last session and all connections.
func (s *Store) shut() {
	s.mu.Lock()
	sess := s.state.session
	s.state = state{down: s.problem(ErrDown, "", ErrClosed), since: time.Now(), round: s.state.round + 1}
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	if sess != nil {
		sess.leave(0)
	}
	for _, m := range s.members {
		m.drop(0)
	}
}
