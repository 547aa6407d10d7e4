package names

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// count returns how many of a client's questions at one time are answered.
func (q *quota) count(client netip.Addr, questions int, now time.Time) (answered int) {
	for range questions {
		if q.allows(client, now) {
			answered++
		}
	}
	return answered
}

func TestQuota(t *testing.T) {
	var q quota
	one, other := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		what      string
		client    netip.Addr
		later     time.Duration
		questions int
		want      int
	}{
		{"a burst", one, 0, 3 * quotaBurst, quotaBurst},
		{"another client's", other, 0, quotaBurst, quotaBurst},
		{"a tenth of a second later", one, time.Second / 10, quotaBurst, quotaPerSecond / 10},
		{"a clock that went back", one, -time.Second / 20, 10, 0},
		{"much later", one, time.Hour, 3 * quotaBurst, quotaBurst},
	} {
		now = now.Add(c.later)
		if got := q.count(c.client, c.questions, now); got != c.want {
			t.Errorf("%s: %d of %d are answered instead of %d", c.what, got, c.questions, c.want)
		}
	}
	if len(q.clients) != 1 {
		t.Errorf("%d clients are remembered instead of the one that asks", len(q.clients))
	}
}

// TestQuotaOfMany: more addresses than clients can have get one quota together, and are
// forgotten.
func TestQuotaOfMany(t *testing.T) {
	var q quota
	now := time.Unix(1000, 0)
	answered := 0
	for i := range uint32(3 * maxClients) {
		addr := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 0x0a000000+i)))
		answered += q.count(addr, 1, now)
	}
	if want := maxClients + quotaBurst; answered != want || len(q.clients) != maxClients+1 {
		t.Errorf("%d are answered instead of %d, %d clients are remembered", answered, want, len(q.clients))
	}
	q.count(netip.MustParseAddr("10.0.0.1"), 1, now.Add(2*time.Second))
	if len(q.clients) != 1 {
		t.Errorf("%d clients are remembered", len(q.clients))
	}
}
