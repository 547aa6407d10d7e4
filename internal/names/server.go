package names

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/kernel"
)

// Bounds of one container.
const (
	// maxPassed is how many questions by UDP wait for the engine at the same time; more
	// are dropped, as a full socket would. The engine itself works at 1024. A long one counts
	// as one more for every longQuestion octets: they are all kept meanwhile.
	maxPassed, longQuestion = 512, 512
	// When maxPassedByAll questions of all containers wait, no container has more than
	// minPassed waiting: some of them must be asking what nobody answers.
	maxPassedByAll, minPassed = 2048, 16
	// maxConns is how many connections are served at the same time; others wait.
	maxConns = 512
	// passTime bounds one passed question: the engine tries three servers of 4 s each.
	passTime = 13 * time.Second
	// idleTime is how long a connection may be silent, busyTime where more than half of the
	// connections are taken.
	idleTime, busyTime = 10 * time.Second, time.Second
	// turnsInARow is after how many packets others get the processor.
	turnsInARow = 16
)

// Sandbox makes sockets in one container's namespace; *kernel.Sandbox is one.
type Sandbox interface {
	// File is the namespace; it stays the Sandbox's.
	File() *os.File
	// At says whether the namespace is still the one at this path.
	At(path string) bool
	ListenUDP(at netip.AddrPort) (*net.UDPConn, error)
	ListenTCP(at netip.AddrPort) (*net.TCPListener, error)
	DialUDP(d kernel.Dialing) (*net.UDPConn, error)
	DialTCP(d kernel.Dialing, timeout time.Duration) (*net.TCPConn, error)
	Close() error
}

// A Redirect sends what the container asks the engine's resolver to weft's sockets, until
// it is closed, weft dies, or nobody renewed it for 9 s; *firewall.Redirect is one.
type Redirect interface {
	// Timed says that it holds for the rest of the 9 s when weft dies.
	Timed() bool
	// Holds says that it was renewed in time.
	Holds() bool
	// Close is idempotent.
	Close() error
}

// A Redirection is what is asked of a Redirect.
type Redirection struct {
	Namespace *os.File
	// Resolver is whom the container asks.
	Resolver netip.AddrPort
	// UDP and TCP are the ports at its address of who answers instead.
	UDP, TCP uint16
	// Pass is where questions come from that do go to the resolver.
	Pass netip.Addr
}

// places are the addresses within a sandbox.
type places struct {
	// engine is where the container believes its resolver to be.
	engine netip.AddrPort
	// listen is where weft listens, at the engine's address; if the port is taken, on any
	// other. A usual one collides with nothing that containers are known to listen at.
	listen netip.AddrPort
	// from is where weft's own questions come from: these the redirect lets pass. No
	// process of the container sends from there by itself.
	from netip.Addr
}

func standardPlaces() places {
	return places{
		engine: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 11}), 53),
		listen: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 11}), 47053),
		from:   netip.AddrFrom4([4]byte{127, 119, 102, 1}),
	}
}

// common is what all servers have in common.
type common struct {
	buffers buffers
	passed  atomic.Int32 // what waits for an engine, by UDP
}

// A server answers the questions of one sandbox. Its methods are safe for concurrent
// use, but for hung.
type server struct {
	sandbox  Sandbox
	redirect Redirect
	places   places
	common   *common
	// lookup is the container's view; it may be replaced at any time.
	lookup atomic.Pointer[Lookup]
	// failed is told why the server cannot go on.
	failed func(*server, error)

	udp      *net.UDPConn
	raw      syscall.RawConn
	upstream *upstream
	// turns counts packets by UDP, passed what waits for the engine.
	turns  atomic.Uint32
	passed atomic.Int32
	// dropped counts questions that were one too many.
	dropped atomic.Uint64

	tcp      *net.TCPListener
	conns    chan struct{}
	accepted atomic.Uint32

	closing atomic.Bool
	open    connections

	seen progress // of the watchdog alone
}

// openServer serves a sandbox: sockets first, then the redirect. It closes the sandbox
// when it fails, and else with the server.
func openServer(sandbox Sandbox, at places, all *common, lookup Lookup, redirect func(Redirection) (Redirect, error), failed func(*server, error)) (_ *server, retErr error) {
	s := &server{
		sandbox: sandbox, places: at, common: all, failed: failed,
		conns: make(chan struct{}, maxConns),
	}
	s.lookup.Store(&lookup)
	s.upstream = &upstream{
		buffers: &all.buffers, busy: map[*line]struct{}{},
		dial: func() (*net.UDPConn, error) { return sandbox.DialUDP(s.dialing()) },
	}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, s.close())
		}
	}()
	var err error
	if s.udp, err = preferred(at.listen, sandbox.ListenUDP); err != nil {
		return nil, err
	}
	if s.raw, err = s.udp.SyscallConn(); err != nil {
		return nil, err
	}
	if s.tcp, err = preferred(at.listen, sandbox.ListenTCP); err != nil {
		return nil, err
	}
	udp, err := netip.ParseAddrPort(s.udp.LocalAddr().String())
	if err != nil {
		return nil, err
	}
	tcp, err := netip.ParseAddrPort(s.tcp.Addr().String())
	if err != nil {
		return nil, err
	}
	go s.serveUDP()
	go s.serveTCP()
	r, err := redirect(Redirection{Namespace: sandbox.File(), Resolver: at.engine, UDP: udp.Port(), TCP: tcp.Port(), Pass: at.from})
	if err != nil {
		return nil, err
	}
	s.redirect = r
	return s, nil
}

// preferred listens at an address, or on any port of it if that one is taken.
func preferred[L any](at netip.AddrPort, listen func(netip.AddrPort) (L, error)) (L, error) {
	l, err := listen(at)
	if errors.Is(err, unix.EADDRINUSE) {
		return listen(netip.AddrPortFrom(at.Addr(), 0))
	}
	return l, err
}

func (s *server) dialing() kernel.Dialing {
	return kernel.Dialing{From: s.places.from, To: s.places.engine}
}

// close takes the redirect away and ends everything under way. It is idempotent and
// waits for nobody: what hangs keeps hanging, but nothing is sent to it any more.
func (s *server) close() error {
	if s.closing.Swap(true) {
		return nil
	}
	var errs []error
	if s.redirect != nil {
		errs = append(errs, s.redirect.Close())
	}
	if s.udp != nil {
		errs = append(errs, s.udp.Close())
	}
	if s.tcp != nil {
		errs = append(errs, s.tcp.Close())
	}
	s.upstream.close()
	s.open.close()
	return errors.Join(append(errs, s.sandbox.Close())...)
}

// fail says why the server cannot go on.
func (s *server) fail(err error) {
	if !s.closing.Load() {
		s.failed(s, err)
	}
}

// keep makes close end a connection; it reports false if that has happened.
func (s *server) keep(c io.Closer) bool {
	return s.open.keep(c, s.places.from, 2*maxConns) // the client's and the engine's
}

// progress is what the watchdog saw the last time.
type progress struct {
	turns, accepted uint32
	// udp and tcp count looks in a row at which something waited and nothing was done.
	udp, tcp int
}

// hung reports how many looks in a row something waited and nothing was done. It costs
// two system calls and wakes nobody. One goroutine at a time may call it.
func (s *server) hung() int {
	turns, accepted := s.turns.Load(), s.accepted.Load()
	p := &s.seen
	if p.udp++; turns != p.turns || !waiting(s.udp) {
		p.udp = 0
	}
	if p.tcp++; accepted != p.accepted || len(s.conns) == maxConns || !waiting(s.tcp) {
		p.tcp = 0
	}
	p.turns, p.accepted = turns, accepted
	return max(p.udp, p.tcp)
}

// waiting says whether a socket has something to be read or accepted.
func waiting(c syscall.Conn) (some bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		some = err == nil && n > 0
	})
	return err == nil && some
}
