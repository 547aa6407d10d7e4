package names

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errClosed says that the server was closed while somebody waited.
var errClosed = errors.New("the resolver of this sandbox is closed")

// A line is a socket to the engine's resolver. One question at a time uses it, so the
// reply needs no number of our own.
type line struct {
	conn *net.UDPConn
	raw  syscall.RawConn
	// looks counts the trims that found it unused.
	looks int
}

// An upstream asks the engine's resolver by UDP. Questions and replies are not changed.
// It is safe for concurrent use.
type upstream struct {
	dial    func() (*net.UDPConn, error)
	buffers *buffers

	mu     sync.Mutex
	idle   []*line // the last one was used last
	busy   map[*line]struct{}
	closed bool
}

// exchange asks and hands the reply over; it belongs to the caller until reply returns.
// A refusal (ECONNREFUSED) means that nobody listens, a deadline that nobody replied.
func (u *upstream) exchange(question []byte, timeout time.Duration, reply func([]byte)) error {
	deadline := time.Now().Add(timeout)
	for {
		l, fresh, err := u.take()
		if err != nil {
			return err
		}
		err = u.ask(l, question, deadline, reply)
		u.release(l, err == nil)
		if err == nil || fresh || !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
		// An engine that was restarted listens elsewhere, and the kernel sends the
		// packets of a known flow where it sent the ones before.
		u.trim(0)
	}
}

// take returns a line that nobody uses; fresh says that it never was used.
func (u *upstream) take() (_ *line, fresh bool, _ error) {
	u.mu.Lock()
	if n := len(u.idle); n > 0 && !u.closed {
		l := u.idle[n-1]
		u.idle = u.idle[:n-1]
		u.busy[l] = struct{}{}
		u.mu.Unlock()
		return l, false, nil
	}
	u.mu.Unlock()
	conn, err := u.dial()
	if err != nil {
		return nil, true, err
	}
	l := &line{conn: conn}
	if l.raw, err = conn.SyscallConn(); err != nil {
		return nil, true, errors.Join(err, conn.Close())
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return nil, true, errors.Join(errClosed, conn.Close())
	}
	u.busy[l] = struct{}{}
	return l, true, nil
}

// release gives a line back; one that may get a late reply is not good any more.
func (u *upstream) release(l *line, good bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.busy, l)
	if good && !u.closed {
		l.looks = 0
		u.idle = append(u.idle, l)
		return
	}
	_ = l.conn.Close() // nothing is lost with it
}

// trim closes lines that were not used since so many calls before.
func (u *upstream) trim(looks int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	kept := u.idle[:0]
	for _, l := range u.idle {
		if l.looks++; l.looks <= looks {
			kept = append(kept, l)
			continue
		}
		_ = l.conn.Close() // nothing is lost with it
	}
	clear(u.idle[len(kept):])
	u.idle = kept
	if len(kept) == 0 {
		u.idle = nil
	}
}

// close ends all questions under way.
func (u *upstream) close() {
	u.trim(0)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	for l := range u.busy {
		_ = l.conn.Close() // whoever waits there is told
	}
}

// ask sends a question and waits for its reply, without a buffer while it waits.
func (u *upstream) ask(l *line, question []byte, deadline time.Time, reply func([]byte)) error {
	if err := l.conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	if _, err := l.conn.Write(question); err != nil {
		return err
	}
	for {
		buf, n, err := u.receive(l)
		if err != nil {
			return err
		}
		if ours := n >= headerSize && buf[0] == question[0] && buf[1] == question[1]; !ours {
			u.buffers.put(buf)
			continue
		}
		reply(buf[:n])
		u.buffers.put(buf)
		return nil
	}
}

func (u *upstream) receive(l *line) (buf *[maxMessage]byte, n int, err error) {
	waitErr := l.raw.Read(func(fd uintptr) bool {
		buf = u.buffers.get()
		n, err = unix.Read(int(fd), buf[:])
		if err == nil {
			return true
		}
		u.buffers.put(buf)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	return buf, n, errors.Join(waitErr, err)
}

// buffers are shared by all sandboxes: nobody holds one while waiting. The zero value is
// ready.
type buffers struct{ pool sync.Pool }

func (b *buffers) get() *[maxMessage]byte {
	if buf, ok := b.pool.Get().(*[maxMessage]byte); ok {
		return buf
	}
	return new([maxMessage]byte)
}

func (b *buffers) put(buf *[maxMessage]byte) { b.pool.Put(buf) }
