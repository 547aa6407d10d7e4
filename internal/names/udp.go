package names

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// serveUDP answers until the server is closed. What it knows it answers itself, without
// a switch to another goroutine.
func (s *server) serveUDP() {
	reply := make([]byte, 0, minUDP)
	for {
		buf, n, from, err := s.receive()
		if err != nil {
			s.fail(err)
			return
		}
		if turn := s.turns.Add(1); turn%turnsInARow == 0 {
			runtime.Gosched()
		}
		reply = s.answer(reply[:0], buf[:n], from)
		s.common.buffers.put(buf)
	}
}

// answer does what is to be done with one packet, and returns the buffer for the next.
func (s *server) answer(reply, message []byte, from netip.AddrPort) []byte {
	reply, verdict := Answer(reply, message, false, *s.lookup.Load(), rand.Uint32())
	switch verdict {
	case Reply:
		_, _ = s.udp.WriteToUDPAddrPort(reply, from) // who does not get it asks again
	case Pass:
		s.pass(message, from)
	}
	return reply
}

// receive waits for a packet, without a buffer while it waits. Packets that are too long
// for a question are cut.
func (s *server) receive() (buf *[maxMessage]byte, n int, from netip.AddrPort, err error) {
	var sa unix.Sockaddr
	waitErr := s.raw.Read(func(fd uintptr) bool {
		buf = s.common.buffers.get()
		n, sa, err = unix.Recvfrom(int(fd), buf[:], unix.MSG_DONTWAIT)
		if err == nil {
			return true
		}
		s.common.buffers.put(buf)
		// An earlier reply that nobody took is no reason to stop.
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ECONNREFUSED)
	})
	if err := errors.Join(waitErr, err); err != nil {
		return nil, 0, from, err
	}
	if in, ok := sa.(*unix.SockaddrInet4); ok {
		from = netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port))
	}
	return buf, n, from, nil
}

// pass asks the engine's resolver, without waiting, and gives its reply to the client. Where the engine's
// resolver would be silent, so is weft; where nobody listens, the client is told.
func (s *server) pass(message []byte, from netip.AddrPort) {
	weight := 1 + int32(len(message)/longQuestion)
	own, all := s.passed.Add(weight), s.common.passed.Add(weight)
	passed := func() { s.passed.Add(-weight); s.common.passed.Add(-weight) }
	if own > maxPassed || all > maxPassedByAll && own > minPassed {
		passed()
		s.dropped.Add(1)
		return
	}
	message = slices.Clone(message)
	go func() {
		defer passed()
		err := s.upstream.exchange(message, passTime, func(reply []byte) {
			_, _ = s.udp.WriteToUDPAddrPort(reply, from) // who does not get it asks again
		})
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) || s.closing.Load() {
			return
		}
		if reply := Failure(nil, message); len(reply) > 0 {
			_, _ = s.udp.WriteToUDPAddrPort(reply, from) // the same
		}
	}()
}
