//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Ctl runs etcdctl on the outside, against all members, with all rights.
func (s *Store) Ctl(ctx context.Context, args ...string) (string, error) {
	return s.ctl(ctx, nil, s.cfg.Members, args...)
}

func (s *Store) ctl(ctx context.Context, stdin io.Reader, members []*Host, args ...string) (string, error) {
	var urls []string
	for _, h := range members {
		urls = append(urls, s.url(h, clientPort))
	}
	command := []string{"env", "ETCDCTL_API=3"}
	if s.locked {
		command = append(command, "ETCDCTL_USER=root", "ETCDCTL_PASSWORD="+rootPassword)
	}
	command = append(command, "etcdctl", "--endpoints="+strings.Join(urls, ","), "--dial-timeout=2s", "--command-timeout=4s")
	if s.cfg.TLS {
		command = append(command, "--cacert="+clientTLS+"/ca.pem", "--cert="+clientTLS+"/cert.pem", "--key="+clientTLS+"/key.pem")
	}
	return s.lab.Outside.RunInput(ctx, stdin, append(command, args...)...)
}

// lock makes the users and lets the store ask for them. It repeats what a busy
// store did not answer. It asks the oldest member: etcd 3.4 forgets the password
// of a user who was made by way of a member of 3.5.
func (s *Store) lock(ctx context.Context) error {
	if err := s.Await(ctx); err != nil {
		return err
	}
	oldest := slices.MinFunc(s.cfg.Members, func(a, b *Host) int {
		return slices.Index(Engines(), a.root.Engine) - slices.Index(Engines(), b.root.Engine)
	})
	for _, command := range [][]string{
		{"user", "add", "root:" + rootPassword},
		{"user", "add", weftUser + ":" + weftPassword},
		{"role", "add", "root"},
		{"role", "add", weftUser},
		{"role", "grant-permission", weftUser, "readwrite", "--prefix=true", ""},
		{"user", "grant-role", "root", "root"},
		{"user", "grant-role", weftUser, weftUser},
		{"auth", "enable"},
	} {
		err := Until(ctx, strings.Join(command[:2], " "), func(ctx context.Context) error {
			_, err := s.ctl(ctx, nil, []*Host{oldest}, command...)
			if err != nil && strings.Contains(err.Error(), "already exist") {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	s.locked = true
	return s.Await(ctx)
}

// Get returns all keys with a prefix and their values.
func (s *Store) Get(ctx context.Context, prefix string) (map[string]string, error) {
	out, err := s.Ctl(ctx, "get", "--prefix", "--write-out=json", prefix)
	if err != nil {
		return nil, err
	}
	var answer struct{ KVs []struct{ Key, Value []byte } }
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		return nil, fmt.Errorf("lab: the store's keys: %w", err)
	}
	keys := map[string]string{}
	for _, kv := range answer.KVs {
		keys[string(kv.Key)] = string(kv.Value)
	}
	return keys, nil
}

// Revision is the revision of the store: it grows with every change.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	out, err := s.Ctl(ctx, "get", "--write-out=json", "weft-lab/none")
	if err != nil {
		return 0, err
	}
	var answer struct{ Header struct{ Revision int64 } }
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		return 0, fmt.Errorf("lab: the store's revision: %w", err)
	}
	return answer.Header.Revision, nil
}

// Snapshot is a backup of a store.
type Snapshot struct {
	file   string // on the machine
	locked bool
}

// Snapshot makes a backup, as an operator does with etcdctl.
func (s *Store) Snapshot(ctx context.Context) (Snapshot, error) {
	const path = "/var/tmp/etcd-snapshot"
	var errs []error
	for _, h := range s.cfg.Members {
		_, err := s.ctl(ctx, nil, []*Host{h}, "snapshot", "save", path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		file, err := os.CreateTemp(s.lab.disk, "snapshot-")
		if err != nil {
			return Snapshot{}, err
		}
		defer file.Close()
		return Snapshot{file: file.Name(), locked: s.locked},
			os.Rename(filepath.Join(s.lab.Outside.disk, "upper", path), file.Name())
	}
	return Snapshot{}, errors.Join(errs...)
}

// Restore stops all members that run and starts a new cluster from a backup,
// on the same hosts. All hosts with members are on.
func (s *Store) Restore(ctx context.Context, snap Snapshot) error {
	if err := s.stopAll(ctx); err != nil {
		return err
	}
	s.born++
	err := each(s.cfg.Members, func(h *Host) error {
		const path = "/var/tmp/etcd-snapshot"
		if err := h.CopyIn(ctx, snap.file, path); err != nil {
			return err
		}
		if _, err := h.Run(ctx, "rm", "-rf", memberData); err != nil {
			return err
		}
		command := append([]string{"env", "ETCDCTL_API=3", "etcdctl", "snapshot", "restore", path}, s.cluster(h)...)
		_, err := h.Run(ctx, command...)
		return err
	})
	if err != nil {
		return err
	}
	s.locked = snap.locked
	if err := s.Start(ctx); err != nil {
		return err
	}
	return s.Await(ctx)
}

// Wipe replaces the store by an empty one on the same hosts, with the same
// certificates and users. All hosts with members are on.
func (s *Store) Wipe(ctx context.Context) error {
	if err := s.stopAll(ctx); err != nil {
		return err
	}
	return s.begin(ctx, func(h *Host) error {
		_, err := h.Run(ctx, "rm", "-rf", memberData)
		return err
	})
}

// stopAll kills the members that run: their data is not wanted any more.
func (s *Store) stopAll(ctx context.Context) error {
	var run []*Host
	for _, h := range s.cfg.Members {
		if h.initPID() == 0 {
			return fmt.Errorf("lab: %s: the host of a member is off", h.Name)
		}
		if h.daemonAlive("etcd") {
			run = append(run, h)
		}
	}
	if len(run) == 0 {
		return nil
	}
	return s.Kill(ctx, run...)
}

const fillKey = "weft-lab/fill"

// Fill writes until the store is beyond its quota: from then on it answers
// reads and deletions, and nothing else.
func (s *Store) Fill(ctx context.Context) error {
	if s.cfg.Quota == 0 {
		return errors.New("lab: the store has no quota to fill")
	}
	ctx, cancel := bounded(ctx, startLimit)
	defer cancel()
	megabyte := strings.Repeat("x", 1<<20)
	for {
		_, err := s.ctl(ctx, strings.NewReader(megabyte), s.cfg.Members, "put", fillKey)
		if err != nil && strings.Contains(err.Error(), "database space exceeded") {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Drain undoes Fill as an operator does: it compacts the history, gives the
// space back and clears the alarm.
func (s *Store) Drain(ctx context.Context) error {
	if _, err := s.Ctl(ctx, "del", fillKey); err != nil {
		return err
	}
	revision, err := s.Revision(ctx)
	if err != nil {
		return err
	}
	for _, command := range [][]string{
		{"compact", "--physical=true", fmt.Sprint(revision)}, {"defrag"}, {"alarm", "disarm"},
	} {
		// A member that is behind does not know its users' tokens yet.
		err := Until(ctx, "etcdctl "+command[0], func(ctx context.Context) error {
			_, err := s.Ctl(ctx, command...)
			return err
		})
		if err != nil {
			return err
		}
	}
	return s.Await(ctx)
}
