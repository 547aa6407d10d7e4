//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// StoreConfig describes a cluster of etcd.
type StoreConfig struct {
	// Members are the hosts that run a member each. They are on.
	Members []*Host
	// TLS makes members and clients talk TLS, with certificates on both sides.
	TLS bool
	// Auth makes the store ask for a user and a password. The user of Settings
	// may read and write all keys and do nothing else.
	Auth bool
	// Quota is the size in bytes beyond which the store takes no more; etcd's
	// default, which Fill cannot reach, if it is 0.
	Quota int64
}

// Store is a cluster of etcd. One goroutine at a time may use it.
type Store struct {
	cfg StoreConfig
	lab *Lab
	// born counts the clusters that these members have been.
	born int
	// locked says that etcd asks for users.
	locked bool
}

const (
	clientPort, peerPort = 2379, 2380

	memberData = "/var/lib/etcd/lab"

	// A managed plugin sees the host's /var/lib, and nothing of /etc.
	clientTLS = "/var/lib/weft-tls"
	memberTLS = "/etc/etcd-tls"

	// The passwords have what a sloppy parser trips over.
	rootPassword = "root:secret"
	weftUser     = "weft"
	weftPassword = "pass:word=1, #$ä"
)

// StartStore starts a member on each host and waits until the store serves.
// The files that Settings names are put on all hosts of the lab.
func StartStore(ctx context.Context, cfg StoreConfig) (*Store, error) {
	ctx, cancel := bounded(ctx, startLimit)
	defer cancel()
	if len(cfg.Members) == 0 {
		return nil, errors.New("lab: a store needs a member")
	}
	s := &Store{cfg: cfg, lab: cfg.Members[0].lab}
	for _, h := range cfg.Members {
		if h.hasMember() {
			return nil, fmt.Errorf("lab: %s: a member of a store runs already", h.Name)
		}
	}
	if cfg.TLS {
		if err := s.certify(ctx); err != nil {
			return nil, err
		}
	}
	return s, s.begin(ctx, func(h *Host) error {
		_, err := h.Run(ctx, "rm", "-rf", memberData)
		return err
	})
}

// begin makes a cluster of stopped members, with the data that prepare leaves.
func (s *Store) begin(ctx context.Context, prepare func(*Host) error) error {
	s.born++
	s.locked = false
	if err := each(s.cfg.Members, prepare); err != nil {
		return err
	}
	if err := s.Start(ctx); err != nil {
		return err
	}
	if s.cfg.Auth {
		return s.lock(ctx)
	}
	return s.Await(ctx)
}

// Members are the hosts with members.
func (s *Store) Members() []*Host { return s.cfg.Members }

// Endpoints is the value of WEFT_STORE.
func (s *Store) Endpoints() string {
	var addrs []string
	for _, h := range s.cfg.Members {
		addrs = append(addrs, fmt.Sprintf("%s:%d", h.IPv4, clientPort))
	}
	return "etcd://" + strings.Join(addrs, ",")
}

// Settings are the variables with which weft uses the store, on any host of
// the lab.
func (s *Store) Settings() map[string]string {
	settings := map[string]string{"WEFT_STORE": s.Endpoints()}
	if s.cfg.TLS {
		settings["WEFT_STORE_CA"] = clientTLS + "/ca.pem"
		settings["WEFT_STORE_CERT"] = clientTLS + "/cert.pem"
		settings["WEFT_STORE_KEY"] = clientTLS + "/key.pem"
	}
	if s.cfg.Auth {
		settings["WEFT_STORE_USER"] = weftUser
		settings["WEFT_STORE_PASSWORD"] = weftPassword
	}
	return settings
}

func (s *Store) url(h *Host, port int) string {
	scheme := "http"
	if s.cfg.TLS {
		scheme = "https"
	}
	return fmt.Sprintf("%s://%s:%d", scheme, h.IPv4, port)
}

// cluster are the arguments that say who belongs to the cluster.
func (s *Store) cluster(h *Host) []string {
	var all []string
	for _, m := range s.cfg.Members {
		all = append(all, m.Name+"="+s.url(m, peerPort))
	}
	return []string{
		"--name=" + h.Name, "--data-dir=" + memberData,
		"--initial-cluster=" + strings.Join(all, ","),
		"--initial-cluster-token=" + fmt.Sprintf("%s-%d", s.lab.ID, s.born),
		"--initial-advertise-peer-urls=" + s.url(h, peerPort),
	}
}

// arguments are those of a member. The timeouts bear a busy machine: a lost
// leader is replaced after two to four seconds.
func (s *Store) arguments(h *Host) []string {
	args := append(s.cluster(h),
		"--initial-cluster-state=new",
		"--listen-peer-urls="+s.url(h, peerPort),
		"--listen-client-urls="+s.url(h, clientPort),
		"--advertise-client-urls="+s.url(h, clientPort),
		"--heartbeat-interval=200", "--election-timeout=2000", "--pre-vote=true",
		"--logger=zap", "--log-level=warn", "--bcrypt-cost=4",
	)
	if s.cfg.Quota > 0 {
		args = append(args, "--quota-backend-bytes="+strconv.FormatInt(s.cfg.Quota, 10))
	}
	if s.cfg.TLS {
		for _, prefix := range []string{"--", "--peer-"} {
			args = append(args, prefix+"cert-file="+memberTLS+"/cert.pem", prefix+"key-file="+memberTLS+"/key.pem",
				prefix+"trusted-ca-file="+memberTLS+"/ca.pem", prefix+"client-cert-auth=true")
		}
	}
	return args
}

// chosen are the hosts that a caller names, or all.
func (s *Store) chosen(hosts []*Host) ([]*Host, error) {
	if len(hosts) == 0 {
		return s.cfg.Members, nil
	}
	for _, h := range hosts {
		if !slices.Contains(s.cfg.Members, h) {
			return nil, fmt.Errorf("lab: %s: no member of the store is there", h.Name)
		}
	}
	return hosts, nil
}

// Start starts the stopped members of these hosts, or all members, and waits
// for nothing: see Await.
func (s *Store) Start(ctx context.Context, hosts ...*Host) error {
	hosts, err := s.chosen(hosts)
	if err != nil {
		return err
	}
	return each(hosts, func(h *Host) error {
		if h.daemonAlive("etcd") {
			return fmt.Errorf("lab: %s: etcd runs already", h.Name)
		}
		if err := os.WriteFile(h.memberFile(), []byte(strings.Join(s.arguments(h), "\n")), 0o644); err != nil {
			return err
		}
		return h.bootMember(ctx)
	})
}

// Stop ends the members of these hosts, or all, in good order. They stay
// stopped, also when their host boots. To stop all takes some ten seconds,
// because each leader looks for a successor; Kill takes none.
func (s *Store) Stop(ctx context.Context, hosts ...*Host) error {
	return s.end(ctx, syscall.SIGTERM, hosts)
}

// Kill is Stop with SIGKILL.
func (s *Store) Kill(ctx context.Context, hosts ...*Host) error {
	return s.end(ctx, syscall.SIGKILL, hosts)
}

func (s *Store) end(ctx context.Context, signal syscall.Signal, hosts []*Host) error {
	hosts, err := s.chosen(hosts)
	if err != nil {
		return err
	}
	return each(hosts, func(h *Host) error {
		if err := os.Remove(h.memberFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if signal == syscall.SIGTERM {
			// A paused member hears of its end only when it goes on.
			if err := h.signalDaemon(ctx, "etcd", syscall.SIGCONT); err != nil {
				return err
			}
		}
		return h.endDaemon(ctx, "etcd", signal)
	})
}

// Pause lets the members of these hosts, or all, hang until Resume: their
// sockets take connections and nobody answers.
func (s *Store) Pause(ctx context.Context, hosts ...*Host) error {
	return s.signal(ctx, syscall.SIGSTOP, hosts)
}

// Resume undoes Pause.
func (s *Store) Resume(ctx context.Context, hosts ...*Host) error {
	return s.signal(ctx, syscall.SIGCONT, hosts)
}

func (s *Store) signal(ctx context.Context, signal syscall.Signal, hosts []*Host) error {
	hosts, err := s.chosen(hosts)
	if err != nil {
		return err
	}
	return each(hosts, func(h *Host) error { return h.signalDaemon(ctx, "etcd", signal) })
}

// Await waits until a quorum serves whoever reaches it over the switch.
func (s *Store) Await(ctx context.Context) error {
	return Until(ctx, "the store to serve", func(ctx context.Context) error {
		_, err := s.Ctl(ctx, "get", "weft-lab/health")
		return err
	})
}

// memberFile holds the arguments of the host's member while that shall run. It
// survives PowerOff.
func (h *Host) memberFile() string { return filepath.Join(h.disk, "etcd") }

func (h *Host) hasMember() bool {
	_, err := os.Stat(h.memberFile())
	return err == nil
}

// bootMember starts the host's member of a store, if there is one.
func (h *Host) bootMember(ctx context.Context) error {
	args, err := os.ReadFile(h.memberFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// PowerOff leaves the page cache alone, so nothing is lost without fsync.
	command := append([]string{"env", "ETCD_UNSAFE_NO_FSYNC=true", "etcd"}, strings.Split(string(args), "\n")...)
	return h.startDaemon(ctx, "etcd", command...)
}

// MemberLog is the log of the host's member of a store.
func (h *Host) MemberLog() string { return h.log("etcd") }
