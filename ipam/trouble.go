package ipam

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/store"
)

// maxPause is the longest pause before a change of a membership is tried again.
const maxPause = 30 * time.Second

// trouble is what a failed change of a membership leaves: the next try waits, longer
// each time, unless something changed that may be why.
type trouble struct {
	at    attempt
	pause time.Duration // 0: there is no trouble
	until time.Time
	err   error // nil if it is not this pool's: the store or the standing, which tell it themselves
}

// attempt is what a try hangs on.
type attempt struct {
	join  bool // or leave
	epoch int
	rev   int64 // of the pool's record
}

// waits reports whether a try has to wait.
func (t *trouble) waits(at attempt, now time.Time) bool {
	return t.pause > 0 && t.at == at && now.Before(t.until)
}

// failed notes a failure. It reports whether that is news.
func (t *trouble) failed(at attempt, err error, now time.Time) (news bool) {
	if t.at != at || t.pause == 0 {
		t.pause = kickEvery / 2
	}
	t.at, t.pause = at, min(2*t.pause, maxPause)
	t.until = now.Add(t.pause)
	for _, passing := range []error{store.ErrDown, store.ErrUnknown, store.ErrReadOnly, cluster.ErrNotNow, cluster.ErrBusy, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, passing) {
			t.err = nil
			return false
		}
	}
	news = t.err == nil || t.err.Error() != err.Error()
	t.err = err
	return news
}

// attempt is what a try to change the membership of a share hangs on now. The caller
// holds mu.
func (m *IPAM) attempt(sh *share, join bool, epoch int) attempt {
	return attempt{join: join, epoch: epoch, rev: m.cfg.Cluster.PoolRev(sh.rec.Pool.Domain, sh.rec.Pool.Subnet)}
}

// ease ends what counts no more once the membership is in order, or nothing can be tried.
// The caller holds mu.
func (m *IPAM) ease(sh *share, look outlook) {
	settled := look.member() && m.inside(sh)
	if settled {
		sh.back = 0 // what was told in the last recovery held
	}
	if !look.member() && look.Epoch == 0 || settled && sh.trouble.at.join && !sh.doubt {
		sh.trouble = trouble{} // what comes after that is another try
	}
}

// stumbled notes that a change of a membership failed. The caller holds mu.
func (m *IPAM) stumbled(sh *share, at attempt, what string, err error) {
	if sh.trouble.failed(at, err, time.Now()) {
		m.cfg.Logger.Warn(what, "pool", sh.rec.Pool.Subnet, "err", err)
		return
	}
	m.cfg.Logger.Debug(what, "pool", sh.rec.Pool.Subnet, "err", err)
}

// Problem says what is wrong with a pool of this host in the store, and that nothing else
// tells; nil if nothing is.
func (m *IPAM) Problem() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, sh := range m.shares() {
		if sh.trouble.err != nil {
			return fmt.Errorf("pool %s: %w: update weft on this host, or put the record right", sh.rec.Pool.Subnet, sh.trouble.err)
		}
	}
	return nil
}
