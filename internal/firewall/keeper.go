package firewall

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// perKeeper is how many sockets one keeper holds. The kernel takes some 20 ms to remove
// the table of each, one after the other, so that this is half a second.
const perKeeper = 24

// stuckAfter is how long a keeper's turn may last before new sandboxes go to another one. The
// kernel may take a minute in a sandbox whose processes change many rules.
const stuckAfter = 100 * time.Millisecond

// errStuck says that a keeper has to be left alone for the time being.
var errStuck = errors.New("the thread is at another sandbox")

// keepers hold the sockets that own tables, in threads with descriptors of their own.
// When a process dies, the kernel closes its descriptors one by one, and waits for an RCU
// grace period at each that owns a table: ten seconds for 500 sandboxes, while the ones
// that come last have rules but no resolver, and the process cannot be started again.
// Threads with descriptors of their own die side by side.
//
// The zero value is ready, and safe for concurrent use.
type keepers struct {
	mu   sync.Mutex // protects list and what each holds
	list []*keeper
}

// A keeper is one such thread.
type keeper struct {
	work chan turn
	held int
	// since is when the turn began that it is at, nil if it is at none.
	since atomic.Pointer[time.Time]
	// home is the thread's own network namespace, by a descriptor of the thread.
	home int
}

// A turn is something for a keeper to do, and who waits for it.
type turn struct {
	f    func() error
	done chan error
}

// borrow returns a keeper that has room and is not stuck, with one place of it taken.
func (k *keepers) borrow() (*keeper, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, one := range k.list {
		if one.held < perKeeper && !one.stuck() {
			one.held++
			return one, nil
		}
	}
	one := &keeper{work: make(chan turn), held: 1}
	ready := make(chan error)
	go one.run(ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	k.list = append(k.list, one)
	return one, nil
}

// giveBack frees a place. The thread stays for the next.
func (k *keepers) giveBack(one *keeper) {
	k.mu.Lock()
	defer k.mu.Unlock()
	one.held--
}

// stuck says that the keeper's turn lasts too long for others to wait.
func (k *keeper) stuck() bool {
	since := k.since.Load()
	return since != nil && time.Since(*since) > stuckAfter
}

// do runs f in the keeper's thread, where descriptors have another meaning: f makes
// system calls only, and nothing of it may be closed elsewhere, finalizers included.
func (k *keeper) do(f func() error) error {
	t := turn{f, make(chan error)}
	k.work <- t
	return <-t.done
}

// doSoon is do for who can go to another keeper: it is errStuck, and f does not run, if this one
// is stuck before it is f's turn.
func (k *keeper) doSoon(f func() error) error {
	t := turn{f, make(chan error)}
	again := time.NewTicker(stuckAfter)
	defer again.Stop()
	for {
		select {
		case k.work <- t:
			return <-t.done
		case <-again.C:
			if k.stuck() {
				return errStuck
			}
		}
	}
}

// run is the thread, but for the first one of the process: what /proc/self says of the
// process is what that one has.
func (k *keeper) run(ready chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		told := make(chan error)
		go k.run(told) // in another thread, because this one is held
		err := <-told
		runtime.UnlockOSThread()
		ready <- err
		return
	}
	// Never unlocked: nobody else can use this thread.
	err := ownDescriptors()
	if err == nil {
		k.home, err = unix.Open(threadNetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	ready <- err
	if err != nil {
		return // and the thread ends
	}
	for t := range k.work {
		began := time.Now()
		k.since.Store(&began)
		err := t.f()
		k.since.Store(nil)
		t.done <- err
	}
}

// ownDescriptors gives the thread a table of descriptors of its own, with nothing in it
// but the standard ones and those of Go's poller, which any thread may be asked to wake.
// All others would be open here for as long as the process lives.
func ownDescriptors() error {
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		return fmt.Errorf("descriptors of its own for a thread: %w", err)
	}
	const dir = "/proc/thread-self/fd/"
	list, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	var names []string
	buf := make([]byte, 8192)
	for {
		n, err := unix.ReadDirent(list, buf)
		if err != nil {
			return errors.Join(fmt.Errorf("read %s: %w", dir, err), unix.Close(list))
		}
		if n == 0 {
			break
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd <= unix.Stderr {
			continue
		}
		if n, err := unix.Readlink(dir+name, buf); err != nil || !strings.HasPrefix(string(buf[:n]), "anon_inode:[event") {
			_ = unix.Close(fd) // of a copy
		}
	}
	return nil
}

// within runs f in the keeper's thread, inside a namespace that the process has open, or is
// errStuck.
func (k *keeper) within(namespace *os.File, f func() error) error {
	rc, err := namespace.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = rc.Control(func(fd uintptr) {
		// Its number means nothing in that thread, but in the process.
		path := "/proc/self/fd/" + strconv.Itoa(int(fd))
		inner = k.doSoon(func() error {
			if err := enter(path); err != nil {
				return err
			}
			// A thread that stays keeps the namespace alive.
			return errors.Join(f(), os.NewSyscallError("setns", unix.Setns(k.home, unix.CLONE_NEWNET)))
		})
	})
	return errors.Join(err, inner)
}

func enter(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	return errors.Join(os.NewSyscallError("setns", unix.Setns(fd, unix.CLONE_NEWNET)), unix.Close(fd))
}
