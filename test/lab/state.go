//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// stateDir holds one record for every lab on the machine.
const stateDir = "/run/weft-lab"

// record says what belongs to a lab, for the process that cleans up after a
// killed one and for commands that enter a lab of another process.
type record struct {
	ID    string
	Disk  string
	Owner process
	Keep  bool
	Hosts map[string]*hostRecord

	mu sync.Mutex
}

// hostRecord is a host as another process finds it.
type hostRecord struct {
	Config HostConfig
	Index  int
	Root   root
	Init   process
}

// process names a process for good: its ID is used again, its start is not.
type process struct {
	PID   int
	Start uint64
}

func newRecord(l *Lab, keep bool) *record {
	pid := os.Getpid()
	return &record{
		ID: l.ID, Disk: l.disk, Keep: keep,
		Owner: process{pid, startTime(pid)},
		Hosts: map[string]*hostRecord{},
	}
}

// alive tells whether the process exists and is no zombie.
func (p process) alive() bool {
	return p.PID > 0 && startTime(p.PID) == p.Start && p.Start > 0
}

// startTime is the start of a process in clock ticks since boot, 0 if there
// is no such process or only its zombie.
func startTime(pid int) uint64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name, in parentheses, may contain anything.
	_, rest, _ := strings.Cut(string(data[strings.LastIndexByte(string(data), ')'):]), " ")
	f := strings.Fields(rest)
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return 0
	}
	start, _ := strconv.ParseUint(f[19], 10, 64)
	return start
}

func recordPath(id string) string { return filepath.Join(stateDir, id+".json") }

// setHost changes what is recorded about a host.
func (r *record) setHost(name string, change func(*hostRecord)) error {
	r.mu.Lock()
	if r.Hosts[name] == nil {
		r.Hosts[name] = &hostRecord{}
	}
	change(r.Hosts[name])
	r.mu.Unlock()
	return r.save()
}

// save replaces the record's file.
func (r *record) save() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	data, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return err
	}
	tmp := recordPath(r.ID) + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, recordPath(r.ID))
}

// destroy removes a lab from the machine, whoever made it and in whatever
// state it is. The record goes last.
func (r *record) destroy(ctx context.Context) error {
	group := cgroupOf(r.ID, "")
	if err := killCgroup(ctx, group); err != nil {
		return err
	}
	for _, h := range r.Hosts {
		if h.Init.alive() {
			if err := syscall.Kill(h.Init.PID, syscall.SIGKILL); err != nil {
				return err
			}
		}
	}
	err := errors.Join(
		deleteSwitch(ctx, r.ID),
		removeCgroup(ctx, group),
		os.RemoveAll(r.Disk),
	)
	if err != nil {
		return fmt.Errorf("lab: remove %s: %w", r.ID, err)
	}
	return os.Remove(recordPath(r.ID))
}

// records reads the records of all labs.
func records() ([]*record, error) {
	files, err := filepath.Glob(stateDir + "/*.json")
	if err != nil {
		return nil, err
	}
	var all []*record
	for _, f := range files {
		data, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue // closed just now
		}
		if err != nil {
			return nil, err
		}
		r := new(record)
		if err := json.Unmarshal(data, r); err != nil {
			return nil, fmt.Errorf("lab: read %s: %w", f, err)
		}
		all = append(all, r)
	}
	return all, nil
}

// CleanStale removes the labs of processes that ended without closing them.
func CleanStale(ctx context.Context) error {
	return clean(ctx, func(r *record) bool { return !r.Keep && !r.Owner.alive() })
}

// Clean removes the labs that outlive their process and those of processes
// that ended without closing them; with force also the labs of other running
// processes.
func Clean(ctx context.Context, force bool) error {
	return clean(ctx, func(r *record) bool { return force || r.Keep || !r.Owner.alive() })
}

func clean(ctx context.Context, remove func(*record) bool) error {
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return err
	}
	unlock, err := lockFile(ctx, stateDir+"/clean.lock")
	if err != nil {
		return err
	}
	defer unlock()
	all, err := records()
	if err != nil {
		return err
	}
	for _, r := range all {
		if remove(r) {
			if err := r.destroy(ctx); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return removeForgotten()
}

// removeForgotten removes host directories that no record names: those of
// labs that ran when the machine was restarted.
func removeForgotten() error {
	dirs, err := filepath.Glob(filepath.Join(CacheDir(), "run", "*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if _, err := os.Stat(recordPath(filepath.Base(dir))); errors.Is(err, fs.ErrNotExist) {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// Open finds a running lab by its ID, or the one that outlives its process if
// id is empty. Closing it removes it.
func Open(id string) (*Lab, error) {
	all, err := records()
	if err != nil {
		return nil, err
	}
	var found []*Lab
	for _, r := range all {
		if r.ID == id || id == "" && r.Keep {
			found = append(found, openRecord(r))
		}
	}
	switch {
	case len(found) == 0:
		return nil, errors.New("lab: no such lab is running")
	case len(found) > 1:
		return nil, fmt.Errorf("lab: %d labs are running, name one: %s ...", len(found), found[0].ID)
	}
	return found[0], nil
}

func openRecord(r *record) *Lab {
	l := &Lab{ID: r.ID, disk: r.Disk, record: r}
	for name, hr := range r.Hosts {
		h := l.newHost(hr.Config, hr.Index, hr.Root)
		if hr.Init.alive() {
			h.init = hr.Init
		}
		if name == "outside" {
			l.Outside = h
		} else {
			l.Hosts = append(l.Hosts, h)
		}
	}
	sortHosts(l.Hosts)
	return l
}
