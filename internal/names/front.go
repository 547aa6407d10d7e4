package names

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// A Front is an address of this host at which the names of one network are answered, for
// engines that have it in their list of DNS servers.
type Front struct {
	At netip.AddrPort
	// Network is the network's id in the Book.
	Network string
	// From are whose questions are answered. Everybody else is refused.
	From netip.Prefix
}

// Fronts answers at addresses of the host, by UDP and TCP. What is not a name of the
// network is refused (RCODE 5), upon which engines and other resolvers ask the next
// server. Nothing is passed on.
type Fronts struct {
	book *Book
	log  *slog.Logger
	wake chan struct{}

	mu   sync.Mutex
	want map[netip.AddrPort]Front
	open map[netip.AddrPort]*front
	why  map[netip.AddrPort]string // of those that could not be opened
}

// retryFronts is the pause after an address could not be listened at: it may not be the
// host's yet.
const retryFronts = time.Second

// frontBuffer is how many octets wait in a Front's UDP socket: some 5,000 questions as the
// kernel counts, 40 ms of a flood of 130,000 a second.
const frontBuffer = 2 << 20

// restUDP is the pause after an error of a UDP socket, which tells of an earlier packet.
const restUDP = time.Millisecond

// NewFronts makes Fronts that answer nowhere; call [Fronts.Run].
func NewFronts(b *Book, log *slog.Logger) *Fronts {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Fronts{book: b, log: log, wake: make(chan struct{}, 1),
		want: map[netip.AddrPort]Front{}, open: map[netip.AddrPort]*front{}, why: map[netip.AddrPort]string{}}
}

// Set says where to answer, instead of what was said before. It does not wait.
func (f *Fronts) Set(list []Front) {
	want := map[netip.AddrPort]Front{}
	for _, one := range list {
		want[one.At] = one
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if maps.Equal(f.want, want) {
		return
	}
	f.want = want
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Serving returns the addresses at which questions are answered, and why not at others.
func (f *Fronts) Serving() (at []netip.AddrPort, problems map[netip.AddrPort]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.SortedFunc(maps.Keys(f.open), netip.AddrPort.Compare), maps.Clone(f.why)
}

// Run listens until ctx ends.
func (f *Fronts) Run(ctx context.Context) error {
	for {
		timer := time.NewTimer(f.step(ctx))
		select {
		case <-ctx.Done():
			timer.Stop()
			f.Set(nil)
			f.step(context.WithoutCancel(ctx))
			return nil
		case <-f.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// step opens and closes what is wanted so, and returns how long nothing is to be done.
func (f *Fronts) step(ctx context.Context) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	for at, one := range f.open {
		if f.want[at] != one.Front {
			one.close()
			delete(f.open, at)
		}
	}
	why := map[netip.AddrPort]string{}
	for at, want := range f.want {
		if f.open[at] != nil {
			continue
		}
		one, err := openFront(ctx, want, f.book)
		if err != nil {
			why[at] = err.Error()
			if f.why[at] != why[at] {
				f.log.Warn("names are not answered at an address of the host", "address", at, "err", err)
			}
			continue
		}
		f.open[at] = one
	}
	f.why = why
	if len(why) > 0 {
		return retryFronts
	}
	return time.Hour
}

// front is a Front in force.
type front struct {
	Front
	lookup Lookup
	udp    *net.UDPConn
	tcp    net.Listener
	conns  chan struct{}
	closed chan struct{}
	open   connections
}

func openFront(ctx context.Context, f Front, b *Book) (*front, error) {
	one := &front{Front: f, lookup: newScope(b, Container{Networks: []string{f.Network}}), conns: make(chan struct{}, maxConns), closed: make(chan struct{})}
	var lc net.ListenConfig
	udp, err := lc.ListenPacket(ctx, "udp", f.At.String())
	if err != nil {
		return nil, err
	}
	one.udp = udp.(*net.UDPConn) //nolint:forcetypeassert // what "udp" gives
	if err := deepen(one.udp); err != nil {
		return nil, errors.Join(err, udp.Close())
	}
	if one.tcp, err = lc.Listen(ctx, "tcp", f.At.String()); err != nil {
		return nil, errors.Join(err, udp.Close())
	}
	go one.serveUDP()
	go one.serveTCP()
	return one, nil
}

// deepen lets a socket hold what a flood brings while weft waits for a processor.
func deepen(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	failed := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, frontBuffer)
	})
	return errors.Join(failed, err)
}

// close ends the goroutines and all conversations.
func (f *front) close() {
	close(f.closed)
	_, _ = f.udp.Close(), f.tcp.Close()
	f.open.close()
}

// rest is a pause after something failed; it reports false when there is nothing to go on
// with.
func (f *front) rest(pause time.Duration) bool {
	select {
	case <-f.closed:
		return false
	case <-time.After(pause):
		return true
	}
}

// reply is the answer to a message, empty if there is to be none.
func (f *front) reply(buf, message []byte, from netip.Addr, tcp bool) []byte {
	if !f.From.Contains(from.Unmap()) {
		return failure(buf, message, dnsmessage.RCodeRefused)
	}
	out, verdict := Answer(buf, message, tcp, f.lookup, rand.Uint32())
	switch verdict {
	case Reply:
		return out
	case Pass:
		return failure(buf, message, dnsmessage.RCodeRefused)
	}
	return nil
}

func (f *front) serveUDP() {
	message, reply := make([]byte, maxMessage), make([]byte, 0, minUDP)
	var all quota
	for {
		n, from, err := f.udp.ReadFromUDPAddrPort(message)
		if err != nil {
			if !f.rest(restUDP) { // an earlier reply that nobody took, or the end
				return
			}
			continue
		}
		client := from.Addr()
		if !f.From.Contains(client.Unmap()) {
			client = netip.Addr{} // strangers have one quota together
		}
		if !all.allows(client, time.Now()) {
			continue
		}
		if reply = f.reply(reply[:0], message[:n], from.Addr(), false); len(reply) > 0 {
			_, _ = f.udp.WriteToUDPAddrPort(reply, from) // who does not get it asks again
		}
	}
}

func (f *front) serveTCP() {
	for {
		f.conns <- struct{}{}
		c, err := f.tcp.Accept()
		if err != nil {
			<-f.conns
			if !f.rest(retryFronts) { // no descriptors, for instance, or the end
				return
			}
			continue
		}
		go func() {
			defer func() { <-f.conns }()
			defer f.open.drop(c)
			from, err := netip.ParseAddrPort(c.RemoteAddr().String())
			if err == nil && f.open.keep(c, from.Addr(), maxConnsFrom) {
				f.converse(c.(*net.TCPConn), from.Addr()) //nolint:forcetypeassert // what "tcp" gives
			}
		}()
	}
}

func (f *front) converse(c *net.TCPConn, from netip.Addr) {
	for {
		message, err := readFrame(c, time.Now().Add(patience(f.conns)))
		if err != nil {
			return
		}
		reply := f.reply(make([]byte, frameHeader), message[frameHeader:], from, true)
		if len(reply) <= frameHeader {
			return
		}
		binary.BigEndian.PutUint16(reply, uint16(len(reply)-frameHeader))
		if err := writeFrame(c, reply); err != nil {
			return
		}
	}
}
