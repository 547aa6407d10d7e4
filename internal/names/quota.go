package names

import (
	"net/netip"
	"time"
)

// Bounds of one client by UDP at a Front: all clients share a socket there, and what one
// asks beyond its quota costs the others no more than being read.
const (
	quotaPerSecond = 5000
	quotaBurst     = 1000
	// maxClients bounds the memory of forged addresses. More clients than these share one
	// quota.
	maxClients = 16384
)

// A quota counts the questions of clients. The zero value is ready; one goroutine at a
// time may use it.
type quota struct {
	clients map[netip.Addr]allowance
	swept   time.Time
}

// An allowance is how many questions a client had left at a time.
type allowance struct {
	left float64
	at   time.Time
}

// later returns the allowance at a later time.
func (a allowance) later(now time.Time) allowance {
	more := now.Sub(a.at).Seconds() * quotaPerSecond
	return allowance{left: min(quotaBurst, a.left+max(0, more)), at: now}
}

// allows counts one question of a client and says whether it is to be answered.
func (q *quota) allows(client netip.Addr, now time.Time) bool {
	if q.clients == nil {
		q.clients, q.swept = map[netip.Addr]allowance{}, now
	}
	if now.Sub(q.swept) >= time.Second {
		q.sweep(now)
	}
	a, known := q.clients[client]
	if !known && len(q.clients) >= maxClients {
		client = netip.Addr{}
		a, known = q.clients[client]
	}
	if !known {
		a = allowance{left: quotaBurst, at: now}
	}
	a = a.later(now)
	allowed := a.left >= 1
	if allowed {
		a.left--
	}
	q.clients[client] = a
	return allowed
}

// sweep forgets who has its whole quota again.
func (q *quota) sweep(now time.Time) {
	q.swept = now
	for client, a := range q.clients {
		if a.later(now).left >= quotaBurst {
			delete(q.clients, client)
		}
	}
}
