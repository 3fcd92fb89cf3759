package storage

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"
)

// Profile is a set of RocksDB options for a size of machine.
type Profile string

// The profiles.
const (
	// Small is for development machines and containers: 256 MiB of memory.
	Small Profile = "small"
	// Default is for 2 to 8 cores: 1 GiB of memory.
	Default Profile = "default"
	// Large is for dedicated servers with fast disks: 4 GiB of memory.
	Large Profile = "large"
)

// profileIndex is a profile's place in optionSpec.def.
var profileIndex = map[Profile]int{Small: 0, Default: 1, Large: 2}

// profileMemory is a profile's memory budget in bytes.
var profileMemory = map[Profile]int64{Small: 256 << 20, Default: 1 << 30, Large: 4 << 30}

// The split of the memory budget in percent. What is left (20 %) is for what
// RocksDB does not count: iterators, compaction buffers, arena rounding, the
// Raft log's memtables.
const (
	cachePercent    = 50
	memtablePercent = 30
	// logPercent is the Raft log's, memtables and cache, at most; a large budget
	// leaves more than it can use. What is left is for what RocksDB does not
	// count: readers of files, blocks in use above a full cache, buffers of
	// compactions.
	logPercent = 15
)

// minMemoryBytes is the smallest budget: below it the memtables of seven
// column families would be flushed all the time.
const minMemoryBytes = 64 << 20

// defaultCloseTimeout is how long Close waits for pinned views.
const defaultCloseTimeout = 30 * time.Second

// Options configure a database. They are fixed once it is open.
type Options struct {
	// Profile chooses the defaults; empty means Default.
	Profile Profile
	// MemoryBytes is the budget of RocksDB's memory in this process: half is
	// the block cache, 30 % the memtables. 0 takes the profile's; the least is
	// 64 MiB.
	MemoryBytes int64
	// Overrides sets single options by name ("block_size"), or for one
	// column family ("embeddings.min_blob_size"). OptionDocs lists the names.
	Overrides map[string]string
	// NoStateHash leaves the state hash out, to measure what it costs. A database
	// written so fails its verification: it is for benchmarks only.
	NoStateHash bool
	// OverrideSource says for an override where it came from ("flag",
	// "environment", "file"); it is shown with the effective options. An
	// absent one is shown as "override".
	OverrideSource map[string]string
	// ProfileSource and MemorySource say the same of Profile and MemoryBytes, if
	// these are set.
	ProfileSource, MemorySource string
	// Logger gets slow and rare events; nil discards them.
	Logger *slog.Logger
	// ReadOnly opens without a lock and without any change on disk.
	ReadOnly bool
	// CloseTimeout bounds how long Close waits for pinned views; 0 is 30 s.
	CloseTimeout time.Duration
}

// DefaultOptions returns the options of the profile "default".
func DefaultOptions() Options { return Options{Profile: Default} }

// OptionValue is an effective option and where it came from.
type OptionValue struct{ Value, Source string }

// Validate returns all problems of the options, joined.
func (o Options) Validate() error {
	_, err := o.resolve()
	return err
}

// Effective returns the options that a database opened with o has, by name.
// A column family that differs from the general value has a row of its own
// ("embeddings.enable_blob_files"). Invalid options give their valid part.
func (o Options) Effective() map[string]OptionValue {
	r, _ := o.resolve()
	out := make(map[string]OptionValue, len(optionSpecs)+16)
	for i := range optionSpecs {
		s := &optionSpecs[i]
		general := r.value(s, -1)
		out[s.name] = OptionValue{Value: general.text, Source: general.source}
		if s.scope != scopeFamily {
			continue
		}
		for cf := range familyCount {
			if v := r.value(s, cf); v.text != general.text {
				out[familyName(cf)+"."+s.name] = OptionValue{Value: v.text, Source: v.source}
			}
		}
	}
	out["profile"] = OptionValue{Value: string(r.profile), Source: r.profileSource}
	out["memory_bytes"] = OptionValue{Value: formatBytes(r.memory), Source: r.memorySource}
	log := r.logOptions()
	out["log.write_buffer_size"] = OptionValue{Value: formatBytes(log.MemtableBytes), Source: "memory budget"}
	out["log.block_cache_bytes"] = OptionValue{Value: formatBytes(log.CacheBytes), Source: "memory budget"}
	return out
}

func (o Options) closeTimeout() time.Duration {
	if o.CloseTimeout > 0 {
		return o.CloseTimeout
	}
	return defaultCloseTimeout
}

func (o Options) logger() *slog.Logger {
	if o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Logger
}

// unknownSource is where a value came from whose giver does not say.
const unknownSource = "override"

// setting is the value of one option with its source.
type setting struct {
	text   string
	source string
	num    int64 // kindInt, kindBytes, kindBool (0 or 1), kindWord (its place)
	float  float64
}

func (s setting) bool() bool { return s.num != 0 }

// resolved are options with every value parsed.
type resolved struct {
	profile       Profile
	profileSource string
	memory        int64
	memorySource  string
	overrides     map[string]setting
}

// resolve checks the options. The result is usable even if err is not nil;
// what is wrong is left out of it then.
func (o Options) resolve() (*resolved, error) {
	r := &resolved{profile: o.Profile, profileSource: cmp.Or(o.ProfileSource, unknownSource),
		memory: o.MemoryBytes, memorySource: cmp.Or(o.MemorySource, unknownSource), overrides: map[string]setting{}}
	var problems []error
	if r.profile == "" {
		r.profile, r.profileSource = Default, "default"
	}
	if _, ok := profileIndex[r.profile]; !ok {
		problems = append(problems, fmt.Errorf("storage: option profile must be small, default or large, it is %q", o.Profile))
		r.profile, r.profileSource = Default, "default"
	}
	if r.memory == 0 {
		r.memory, r.memorySource = profileMemory[r.profile], r.from()
	}
	if r.memory < minMemoryBytes {
		problems = append(problems, fmt.Errorf("storage: option memory must be at least %s, it is %d bytes", formatBytes(minMemoryBytes), o.MemoryBytes))
		r.memory, r.memorySource = profileMemory[r.profile], r.from()
	}
	for _, name := range slices.Sorted(maps.Keys(o.Overrides)) {
		spec, err := findSpec(name)
		if err == nil {
			var v setting
			if v, err = spec.parse(o.Overrides[name]); err == nil {
				v.source = cmp.Or(o.OverrideSource[name], unknownSource)
				r.overrides[name] = v
				continue
			}
		}
		problems = append(problems, fmt.Errorf("storage: option %s: %w", name, err))
	}
	if len(problems) == 0 {
		problems = append(problems, r.check())
	}
	return r, errors.Join(problems...)
}

func (r *resolved) from() string { return "profile " + string(r.profile) }

// check holds the options that only make sense together.
func (r *resolved) check() error {
	var problems []error
	for cf := range familyCount {
		slow, stop := r.family("level0_slowdown_writes_trigger", cf).num, r.family("level0_stop_writes_trigger", cf).num
		start := r.family("level0_file_num_compaction_trigger", cf).num
		if start > slow || slow > stop {
			problems = append(problems, fmt.Errorf("storage: options of %s: level0_file_num_compaction_trigger (%d) <= level0_slowdown_writes_trigger (%d)"+
				" <= level0_stop_writes_trigger (%d) must hold", familyName(cf), start, slow, stop))
		}
		soft, hard := r.family("soft_pending_compaction_bytes_limit", cf).num, r.family("hard_pending_compaction_bytes_limit", cf).num
		if soft > hard {
			problems = append(problems, fmt.Errorf("storage: options of %s: soft_pending_compaction_bytes_limit (%d) must not be above"+
				" hard_pending_compaction_bytes_limit (%d)", familyName(cf), soft, hard))
		}
	}
	return errors.Join(problems...)
}

// value returns the value of an option, for a column family or, with cf < 0,
// in general. From the strongest: an override for the family, a general
// override, the profile's value for the family, the profile's value.
func (r *resolved) value(s *optionSpec, cf int) setting {
	if cf >= 0 {
		if v, ok := r.overrides[familyName(cf)+"."+s.name]; ok {
			return v
		}
	}
	if v, ok := r.overrides[s.name]; ok {
		return v
	}
	text, source := s.def[profileIndex[r.profile]], r.from()
	if cf >= 0 {
		if def, ok := familyDefaults[familyName(cf)+"."+s.name]; ok {
			text = def[profileIndex[r.profile]]
		}
	}
	if s.percent != 0 {
		text, source = formatBytes(r.memory*s.percent/100), "memory budget"
	}
	v, err := s.parse(text)
	if err != nil {
		// A table of this package is wrong; TestOptionTable finds it.
		panic(fmt.Sprintf("storage: the default of option %s is wrong: %v", s.name, err))
	}
	v.source = source
	return v
}

// family returns an option's value for a column family.
func (r *resolved) family(name string, cf int) setting { return r.value(specByName[name], cf) }

// general returns the value of an option that is not of a column family.
func (r *resolved) general(name string) setting { return r.value(specByName[name], -1) }

// findSpec finds an option by its name, with or without a column family.
func findSpec(name string) (*optionSpec, error) {
	base := name
	if cf, rest, ok := strings.Cut(name, "."); ok {
		if !slices.ContainsFunc(familyNames[1:], func(n string) bool { return n == cf }) && cf != familyName(cfMeta) {
			return nil, fmt.Errorf("there is no column family %q", cf)
		}
		base = rest
	}
	spec, ok := specByName[base]
	if !ok {
		return nil, fmt.Errorf("there is no such option")
	}
	if base != name && spec.scope != scopeFamily {
		return nil, fmt.Errorf("%s is not an option of a column family", base)
	}
	return spec, nil
}
