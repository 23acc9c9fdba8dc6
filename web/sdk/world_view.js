/**
 * The client's picture of the world: entities by id, kept up to date by snapshots. The twin of perdure/client/world_view.py.
 *
 * Decodes the binary parts of a snapshot by the schema alone; knows no game, no socket and no clock.
 *
 * @module
 */

/**
 * @typedef {{name: string, dtype: string, to: string, lo: number, hi: number, step: number, bytes: number, interpolate: boolean}} Field
 * @typedef {{name: string, capacity: number, avatar: boolean, fields: Field[]}} EntityType
 * @typedef {{name: string, kind: number, fields: Field[]}} CommandType
 * @typedef {{name: string, radius: number, fields: Field[]}} EventType
 * @typedef {{name: string, tick_hz: number, width: number, height: number, interest: number, entities: EntityType[],
 *   commands: CommandType[], events: EventType[]}} Schema
 * @typedef {{name: string, tick: number, fields: Record<string, number>}} GameEvent
 * @typedef {{zone: number, epoch: number, tick: number, flags: number, ack: number, me: number, keyframe: boolean, moved: boolean,
 *   entered: number[], left: number[], updated: number[], events: GameEvent[]}} Snapshot `entered` and `left`: ids; what a keyframe
 *   repeats is in neither
 */

export const KEYFRAME = 1;
export const MOVED = 4;

/** A snapshot does not fit the schema or the handles in use. */
export class SnapshotError extends Error {}

/** Reads little-endian numbers of 1 to 4 bytes, one after the other. */
class Reader {
  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  get more() {
    return this.at < this.bytes.length;
  }

  /** @param {number} size @returns {number} */
  read(size) {
    const end = this.at + size;
    if (end > this.bytes.length) throw new SnapshotError("a record ends before its fields do");
    let value = 0;
    for (let k = end - 1; k >= this.at; k--) value = value * 256 + this.bytes[k];
    this.at = end;
    return value;
  }
}

/** @param {Field} field @param {number} level @returns {number} */
function valueOf(field, level) {
  const value = field.lo + level * field.step;
  return field.dtype[0] === "f" ? value : Math.trunc(value);
}

/** What is worked out once for each entity type. */
class TypePlan {
  /** @param {EntityType} type @param {number} index */
  constructor(type, index) {
    this.type = type;
    this.index = index;
    this.public = type.fields.filter((field) => field.to === "all");
    this.owner = type.fields.filter((field) => field.to === "owner");
    this.maskBytes = Math.ceil(this.public.length / 8);
  }
}

/** One entity as this client sees it. The same object for as long as the entity is in sight, keyframes included. */
export class EntityView {
  /** @param {TypePlan} plan @param {number} id */
  constructor(plan, id) {
    this.plan = plan;
    /** Names the entity everywhere and for ever. */
    this.id = id;
    this.handle = -1;
    /** Key of the player whose avatar this is; 0n for nobody's. `Client.who` asks for its name. */
    this.key = 0n;
    /** @type {Record<string, number>} all fields that are known of it, as values */
    this.fields = {};
  }

  /** Name of the entity's type. */
  get type() {
    return this.plan.type.name;
  }
}

export class WorldView {
  /** @param {Schema} schema */
  constructor(schema) {
    this.schema = schema;
    /** @type {Map<number, EntityView>} */
    this.entities = new Map();
    this.zone = -1;
    this.epoch = 0;
    this.tick = 0;
    this.meId = 0;
    /** @private */ this.plans = schema.entities.map((type, index) => new TypePlan(type, index));
    /** @private @type {Map<number, EntityView>} */ this.handles = new Map();
  }

  /** One's own avatar, or null. @returns {EntityView | null} */
  get me() {
    return this.entities.get(this.meId) ?? null;
  }

  /**
   * Apply a decoded snapshot message. Throws SnapshotError where it does not fit.
   *
   * @param {any[]} message [2, zone, epoch, tick, flags, ack, me, enters, updates, leaves, events, owner]
   * @returns {Snapshot}
   */
  apply(message) {
    if (message.length < 12) throw new SnapshotError("a snapshot has twelve elements");
    const [zone, epoch, tick, flags, ack, me] = message.slice(1, 7).map(Number);
    for (const part of message.slice(7, 12)) if (!(part instanceof Uint8Array)) throw new SnapshotError("the parts of a snapshot are bin");
    /** @type {Snapshot} */
    const snapshot = {
      zone, epoch, tick, flags, ack, me, keyframe: (flags & KEYFRAME) !== 0, moved: (flags & MOVED) !== 0,
      entered: [], left: [], updated: [], events: [],
    };
    const before = this.entities;
    if (snapshot.keyframe) {
      this.entities = new Map();
      this.handles = new Map();
    }
    this.leave(message[9], snapshot);
    this.enter(message[7], before, snapshot);
    this.update(message[8], snapshot);
    if (snapshot.keyframe) for (const id of before.keys()) if (!this.entities.has(id)) snapshot.left.push(id);
    Object.assign(this, { zone, epoch, tick, meId: me });
    if (message[11].length) this.own(message[11]);
    this.tell(message[10], snapshot);
    return snapshot;
  }

  /** @private @param {Uint8Array} bytes @param {Snapshot} snapshot */
  leave(bytes, snapshot) {
    for (const reader = new Reader(bytes); reader.more;) {
      const handle = reader.read(2);
      const entity = this.handles.get(handle);
      if (!entity) throw new SnapshotError(`a leave of handle ${handle}, which is not in use`);
      this.handles.delete(handle);
      if (this.entities.get(entity.id) === entity) this.entities.delete(entity.id);
      snapshot.left.push(entity.id);
    }
  }

  /** @private @param {Uint8Array} bytes @param {Map<number, EntityView>} before @param {Snapshot} snapshot */
  enter(bytes, before, snapshot) {
    for (const reader = new Reader(bytes); reader.more;) {
      const handle = reader.read(2);
      const plan = this.plans[reader.read(1)];
      if (!plan) throw new SnapshotError("an enter of an entity type that the schema has not");
      const id = reader.read(4) + reader.read(2) * 4294967296;
      let entity = before.get(id);
      if (!entity || entity.plan !== plan) {
        entity = new EntityView(plan, id);
        snapshot.entered.push(id);
      }
      if (plan.type.avatar) entity.key = BigInt(reader.read(4)) | (BigInt(reader.read(4)) << 32n);
      entity.handle = handle;
      for (const field of plan.public) entity.fields[field.name] = valueOf(field, reader.read(field.bytes));
      this.entities.set(id, entity);
      this.handles.set(handle, entity);
    }
  }

  /** @private @param {Uint8Array} bytes @param {Snapshot} snapshot */
  update(bytes, snapshot) {
    for (const reader = new Reader(bytes); reader.more;) {
      const handle = reader.read(2);
      const entity = this.handles.get(handle);
      if (!entity) throw new SnapshotError(`an update of handle ${handle}, which is not in use`);
      const { plan } = entity;
      const mask = [];
      for (let k = 0; k < plan.maskBytes; k++) mask.push(reader.read(1));
      for (let k = 0; k < plan.maskBytes * 8; k++) {
        if (!((mask[k >> 3] >> (k & 7)) & 1)) continue;
        const field = plan.public[k];
        if (!field) throw new SnapshotError(`an update of ${plan.type.name} names a field that it has not`);
        entity.fields[field.name] = valueOf(field, reader.read(field.bytes));
      }
      snapshot.updated.push(entity.id);
    }
  }

  /** @private @param {Uint8Array} bytes */
  own(bytes) {
    const { me } = this;
    if (!me) throw new SnapshotError("owner fields came, but one's own avatar is not in sight");
    const reader = new Reader(bytes);
    for (const field of me.plan.owner) me.fields[field.name] = valueOf(field, reader.read(field.bytes));
    if (reader.more) throw new SnapshotError("there are more owner fields than the schema has");
  }

  /** @private @param {Uint8Array} bytes @param {Snapshot} snapshot */
  tell(bytes, snapshot) {
    for (const reader = new Reader(bytes); reader.more;) {
      const type = this.schema.events[reader.read(1)];
      if (!type) throw new SnapshotError("an event that the schema has not");
      /** @type {Record<string, number>} */
      const fields = {};
      for (const field of type.fields) fields[field.name] = valueOf(field, reader.read(field.bytes));
      snapshot.events.push({ name: type.name, tick: snapshot.tick, fields });
    }
  }
}
